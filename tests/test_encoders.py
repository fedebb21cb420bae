"""Encoder artifacts agree with transformers, and a score depends on its own pair alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import kendalltau

from conftest import exported
from encoder_checkpoints import KINDS, Kind, PairReference, make_encoder
from memrerank import InputError, Memory, Reranker
from memrerank.manifest import read_manifest

TOLERANCE = 1e-4
"""Of an fp32 logit; logits of the tiny checkpoints vary by units."""

QUERY = "When did Caroline apply to adoption agencies?"
DOCUMENTS = [
    "I applied to adoption agencies!",
    "",
    "no.",
    "I applied to adoption agencies?",  # as many tokens as the first: these two share a run
    "She did.\n\n\tIn August 2023, with  3 friends?\r\n",
    "昨日、養子縁組の申請をしました。👩‍👩‍👧 Zürich, cafe\u0301",
    "Caroline went to the park, then home. " * 3,
    "Caroline went to the park, then home, and then out again. " * 30,  # longer than the models take
]

SHAPES: dict[str, tuple[Kind, dict[str, Any]]] = {
    "BERT": ("Bert", {}),
    "BERT, one layer, one head": ("Bert", {"num_hidden_layers": 1, "num_attention_heads": 1, "hidden_size": 24}),
    "BERT, odd sizes": ("Bert", {"num_attention_heads": 3, "hidden_size": 39, "intermediate_size": 70}),
    "BERT, another activation": ("Bert", {"hidden_act": "relu", "layer_norm_eps": 1e-3}),
    "BERT, GELU by tanh": ("Bert", {"hidden_act": "gelu_new"}),
    "XLM-RoBERTa": ("XLMRoberta", {}),
    "XLM-RoBERTa, heads of 64": ("XLMRoberta", {"num_attention_heads": 2, "hidden_size": 128}),
    "ModernBERT": ("ModernBert", {}),
    "ModernBERT, mean of the tokens": ("ModernBert", {"classifier_pooling": "mean"}),
    "ModernBERT, last layer local": ("ModernBert", {"num_hidden_layers": 3}),
    "ModernBERT, other constants": (
        "ModernBert",
        {"local_attention": 6, "global_attn_every_n_layers": 2, "local_rope_theta": 100.0, "global_rope_theta": 500.0},
    ),
    "ModernBERT, biases everywhere": (
        "ModernBert",
        {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True},
    ),
    "ModernBERT, one RoPE base": ("ModernBert", {"local_rope_theta": None}),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_fp32_logits_are_those_of_transformers(shape: tuple[Kind, dict[str, Any]], tmp_path: Path) -> None:
    kind, config = shape
    checkpoint = make_encoder(tmp_path / "checkpoint", kind, seed=1, **config)
    reference = PairReference(checkpoint)
    reranker = Reranker.load(exported(checkpoint, tmp_path / "artifact", "fp32"))
    for query in (QUERY, "", "¿Cuándo? \n 什么时候"):
        assert [reranker.encode(query, text) for text in DOCUMENTS] == [
            reference.ids(query, text) for text in DOCUMENTS
        ]
        expected = [reference.logit(query, text) for text in DOCUMENTS]
        assert np.std(expected) > 0.05  # far above the tolerance
        np.testing.assert_allclose(reranker.score(query, DOCUMENTS, raw=True), expected, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module", params=KINDS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoder") / "checkpoint", request.param)


@pytest.fixture(scope="module")
def fp32_artifact(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(checkpoint, tmp_path_factory.mktemp("encoder-fp32") / "artifact", "fp32")


@pytest.fixture(scope="module")
def int8_artifact(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(checkpoint, tmp_path_factory.mktemp("encoder-int8") / "artifact", "int8")


@pytest.fixture(scope="module", params=["fp32", "int8"])
def reranker(request: pytest.FixtureRequest, fp32_artifact: Path, int8_artifact: Path) -> Reranker:
    return Reranker.load(fp32_artifact if request.param == "fp32" else int8_artifact, threads=2)


def many_documents() -> list[str]:
    """Several of each of several lengths, and some of lengths of their own."""
    rng = np.random.default_rng(7)
    words = ["I", "she", "Caroline", "moved", "applied", "adopted", "in", "May", "2023", "blue", ",", "not", "yes", "?"]
    lengths = [*[0, 1, 2, 5, 9, 17, 30] * 5, *rng.integers(0, 60, 20)]
    return [" ".join(rng.choice(words, length)) for length in lengths]


def assert_same_bits(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32))


def test_a_logit_is_bit_for_bit_the_same_alone_and_in_any_company(
    reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = many_documents()
    alone = np.concatenate([reranker.score(QUERY, [document], raw=True) for document in documents])
    assert np.std(alone) > 0.1
    for token_budget in (1, 70, 320, 5000):
        monkeypatch.setattr("memrerank.encoder.Encoder.token_budget", token_budget)
        assert_same_bits(reranker.score(QUERY, documents, raw=True), alone)
    for seed in range(5):
        chosen = np.random.default_rng(seed).choice(len(documents), size=30)
        assert_same_bits(reranker.score(QUERY, [documents[i] for i in chosen], raw=True), alone[chosen])
    fresh = Reranker.load(reranker.path, threads=3, probe=False)
    assert_same_bits(fresh.score(QUERY, documents[::-1], raw=True), alone[::-1])


def test_int8_ranks_like_fp32(int8_artifact: Path, fp32_artifact: Path) -> None:
    int8, fp32 = Reranker.load(int8_artifact), Reranker.load(fp32_artifact)
    exact, found = (reranker.score(QUERY, many_documents(), raw=True) for reranker in (fp32, int8))
    error = np.abs(found - exact) / exact.std()
    assert kendalltau(exact, found).statistic > 0.85
    assert 0.001 < np.sqrt((error**2).mean()) < 0.25


def test_fp16_is_stored_in_half_and_computed_in_fp32(checkpoint: Path, fp32_artifact: Path, tmp_path: Path) -> None:
    half = Reranker.load(exported(checkpoint, tmp_path / "artifact", "fp16"))
    exact = Reranker.load(fp32_artifact)
    sizes = [read_manifest(reranker.path).files["model.onnx.data"].size for reranker in (half, exact)]
    assert sizes[0] < 0.7 * sizes[1]  # vectors stay in fp32, and every tensor begins at a page
    difference = half.score(QUERY, DOCUMENTS, raw=True) - exact.score(QUERY, DOCUMENTS, raw=True)
    assert 0 < np.abs(difference).max() < 2e-2


def test_context_times_and_speakers_are_text_of_the_pair(checkpoint: Path, fp32_artifact: Path) -> None:
    reranker, reference = Reranker.load(fp32_artifact), PairReference(checkpoint)
    context = ["Melanie: How is she?", Memory("Fine!", speaker="Joan", time="2023-09-01")]
    memory = Memory("I applied", time="2023-08-25T13:33", speaker="Caroline")
    first = f"Melanie: How is she?\n[2023-09-01] Joan: Fine!\n[2023-09-02 08:05] {QUERY}"
    second = "[2023-08-25 13:33] Caroline: I applied"
    options: dict[str, Any] = {"context": context, "time": "2023-09-02T08:05"}
    assert reranker.encode(QUERY, memory, **options) == reference.ids(first, second)
    [logit] = reranker.score(QUERY, [memory], raw=True, **options)
    assert logit == pytest.approx(reference.logit(first, second), abs=TOLERANCE)


def test_an_instruction_is_refused(reranker: Reranker) -> None:
    with pytest.raises(InputError, match="takes none; leave it out"):
        reranker.rerank(QUERY, DOCUMENTS, instruction="Find the memory")


def test_the_document_is_cut_and_reported_and_never_the_query(reranker: Reranker) -> None:
    limit = reranker.manifest.limits.max_tokens
    long = DOCUMENTS[-1]
    assert len(reranker.encode(QUERY, long)) == limit
    assert reranker.rerank(QUERY, [*DOCUMENTS[:3], long]).truncated == (3,)
    room = limit - len(reranker.encode("", "")) - 1
    for query in (words := ["now " * count for count in range(room // 4, room + 2)]):
        alone = len(reranker.encode("", query)) - len(reranker.encode("", ""))
        if alone > room:
            break
        ids = reranker.encode(query, long)
        assert len(ids) == limit
        assert ids[: len(reranker.encode(query, "")) - 1] == reranker.encode(query, "")[:-1]
    with pytest.raises(InputError, match="leave room for a document"):
        reranker.encode(words[-1], "short")


def test_a_deadline_leaves_documents_unscored(reranker: Reranker) -> None:
    ranking = reranker.rerank(QUERY, DOCUMENTS, deadline_ms=0)
    assert list(ranking) == []
    assert ranking.unscored == tuple(range(len(DOCUMENTS)))


def test_the_manifest_says_what_the_model_reads(checkpoint: Path, int8_artifact: Path) -> None:
    manifest, config = read_manifest(int8_artifact), json.loads((checkpoint / "config.json").read_text())
    kind = config["architectures"][0]
    assert (manifest.family, manifest.architecture, manifest.precision) == ("encoder", kind, "int8")
    assert manifest.template.padding == config["pad_token_id"]
    assert manifest.template.token_types == ((0, 1) if kind.startswith("Bert") else None)
    assert manifest.template.instruction is None
    assert manifest.limits.max_tokens == (158 if kind.startswith("XLMRoberta") else 160)
    assert manifest.fidelity["reference"].startswith("transformers")
    assert {record.form for record in manifest.plan.values()} == {"int8"}
