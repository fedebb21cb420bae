"""Artifacts agree with transformers on the official prompt, given the weights that they store, to 1e-4."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import kendalltau

from checkpoints import SMALL_VOCABULARY, make_checkpoint
from conftest import exported
from memrerank import Memory, Reranker
from memrerank_export.config import DECODERS, PRECISIONS
from reference import INSTRUCTION, NO, YES, ReferenceModel, official_ids, official_mxbai_ids, stored_matrices

TOLERANCE = 1e-4
"""Of a logit; logits of the tiny checkpoints vary by units."""

DOCUMENTS = [
    "I applied to adoption agencies!",
    "",
    "yes",
    "no.",
    "I applied to adoption agencies?",  # as many tokens as the first: these two share a run
    "She did.\n\n\tIn August 2023, with  3 friends?\r\n",
    "昨日、養子縁組の申請をしました。👩‍👩‍👧 Zürich, cafe\u0301",
    "Caroline went to the park, then home, and then out again. " * 12,
]
CALLS = [
    ("When did Caroline apply to adoption agencies?", INSTRUCTION),
    ("", "Find the memory that answers the question"),
    ("¿Cuándo? \n 什么时候", ""),
    ("Where does Melanie's sister keep the keys of the house by the river? " * 5, INSTRUCTION),
]

SHAPES: dict[str, dict[str, Any]] = {
    "untied, config of transformers 5": {"tied": False, "config_layout": 5, "dtype": "float32", "hidden": 32},
    "separate head under a tied config": {"separate_lm_head": True, "config_layout": 5, "hidden": 32},
    "separate head, other score tokens": {"separate_lm_head": True, "logit_score": (151_668, 0), "hidden": 32},
    "tied, score tokens swapped": {"logit_score": (NO, YES)},
    "several shards, config of transformers 5": {"shard_size": "100KB", "config_layout": 5, "hidden": 48},
    "classifier": {"architecture": "Qwen3ForSequenceClassification", "hidden": 48},
    "classifier, config of transformers 5, shards": {
        "architecture": "Qwen3ForSequenceClassification",
        "config_layout": 5,
        "shard_size": "50KB",
        "hidden": 24,
    },
    "one layer": {"layers": 1, "hidden": 48},
    "five layers, narrow": {"layers": 5, "hidden": 24, "intermediate": 20, "head_dim": 8},
    "one head": {"heads": 1, "kv_heads": 1, "head_dim": 32, "layers": 2, "hidden": 32},
    "three heads share keys": {"heads": 3, "kv_heads": 1, "head_dim": 10, "hidden": 50},
    "six heads in three groups": {"heads": 6, "kv_heads": 3, "head_dim": 32, "hidden": 40},
    "five heads of their own": {"heads": 5, "kv_heads": 5, "head_dim": 64, "hidden": 72, "intermediate": 132},
    "heads of 128": {"heads": 4, "kv_heads": 2, "head_dim": 128, "dtype": "float32"},
}

QWEN2_SHAPES: dict[str, dict[str, Any]] = {
    "tied": {"layers": 3},
    "untied, config of transformers 5": {"tied": False, "config_layout": 5, "dtype": "float32", "hidden": 32},
    "separate head under a tied config": {"separate_lm_head": True, "hidden": 40},
    "several shards, config of transformers 5": {"shard_size": "30KB", "config_layout": 5, "hidden": 48},
    "tied, other score tokens": {"logit_score": (257, 30), "layers": 1},
    "classifier, shards": {"classifier": True, "shard_size": "30KB", "hidden": 24},
    "classifier, config of transformers 5": {"classifier": True, "config_layout": 5, "hidden": 48},
    "one head": {"heads": 1, "kv_heads": 1, "hidden": 32},
    "six heads share keys": {"heads": 6, "kv_heads": 1, "hidden": 60, "intermediate": 20},
    "six heads in three groups": {"heads": 6, "kv_heads": 3, "hidden": 96, "dtype": "float32"},
    "three heads of 64": {"heads": 3, "kv_heads": 3, "hidden": 192, "layers": 1},
}

CONFIG_EDITS: dict[str, dict[str, Any]] = {
    "RoPE base and norm epsilon": {"rope_theta": 100.0, "rms_norm_eps": 0.5},
    "RoPE base in the layout of transformers 5": {"rope_parameters": {"rope_theta": 500, "rope_type": "default"}},
}


def assert_parity(
    reranker: Reranker,
    reference: ReferenceModel,
    tokenizer_json: Path,
    official: Callable[[Path, str, str, str], list[int]] = official_ids,
) -> None:
    for query, instruction in CALLS:
        ids = [official(tokenizer_json, query, document, instruction) for document in DOCUMENTS]
        assert [reranker.encode(query, document, instruction=instruction) for document in DOCUMENTS] == ids
        expected = [reference.logit(prompt) for prompt in ids]
        found = reranker.score(query, DOCUMENTS, instruction=instruction, raw=True)
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_fp32_logits_are_those_of_transformers(shape: dict[str, Any], tokenizer_json: Path, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", seed=1, **shape)
    reranker = Reranker.load(exported(checkpoint, tmp_path / "artifact", "fp32"))
    assert_parity(reranker, ReferenceModel(checkpoint), tokenizer_json)


@pytest.mark.parametrize("shape", QWEN2_SHAPES.values(), ids=QWEN2_SHAPES.keys())
def test_fp32_logits_of_qwen2_are_those_of_transformers(shape: dict[str, Any], tmp_path: Path) -> None:
    kind = "ForSequenceClassification" if shape.get("classifier") else "ForCausalLM"
    shape = {"layers": 2} | {key: value for key, value in shape.items() if key != "classifier"}
    checkpoint = make_checkpoint(
        tmp_path / "checkpoint", architecture=f"Qwen2{kind}", vocab=SMALL_VOCABULARY, seed=1, **shape
    )
    reranker = Reranker.load(exported(checkpoint, tmp_path / "artifact", "fp32"))
    assert_parity(reranker, ReferenceModel(checkpoint), checkpoint / "tokenizer.json", official_mxbai_ids)
    assert 0 < reranker.manifest.fidelity["max_difference"] < TOLERANCE


@pytest.mark.parametrize("edit", CONFIG_EDITS.values(), ids=CONFIG_EDITS.keys())
def test_constants_of_the_config_are_followed(edit: dict[str, Any], tokenizer_json: Path, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", hidden=32)
    usual = ReferenceModel(checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    if "rope_parameters" in edit:
        del config["rope_theta"], config["rope_scaling"]
    (checkpoint / "config.json").write_text(json.dumps(config | edit))
    reranker = Reranker.load(exported(checkpoint, tmp_path / "artifact", "fp32"))
    assert_parity(reranker, ReferenceModel(checkpoint), tokenizer_json)
    ids = official_ids(tokenizer_json, "Where?", DOCUMENTS[0])
    assert abs(reranker.score("Where?", DOCUMENTS[:1], raw=True)[0] - usual.logit(ids)) > 100 * TOLERANCE


def test_documents_are_cut_to_the_positions_the_model_has(tokenizer_json: Path, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", max_positions=128, hidden=32)
    reranker, reference = Reranker.load(exported(checkpoint, tmp_path / "artifact", "fp32")), ReferenceModel(checkpoint)
    query = "When did Caroline apply?"
    ids = [reranker.encode(query, document) for document in DOCUMENTS]
    official = [official_ids(tokenizer_json, query, document) for document in DOCUMENTS]
    assert [len(prompt) for prompt in ids] == [min(len(prompt), 128) for prompt in official]
    assert [found == whole for found, whole in zip(ids, official, strict=True)] == [True] * 7 + [False]
    logits = reranker.score(query, DOCUMENTS, raw=True)
    np.testing.assert_allclose(logits, [reference.logit(prompt) for prompt in ids], rtol=0, atol=TOLERANCE)
    assert list(reranker.rerank(query, DOCUMENTS).truncated) == [7]


def test_context_times_and_speakers_are_text_of_the_official_prompt(
    tiny_checkpoint: Path, fp32_artifact: Path, tokenizer_json: Path
) -> None:
    reranker, query = Reranker.load(fp32_artifact), "When did she apply to adoption agencies?"
    context = ["Melanie: How is Caroline doing?", Memory("Fine!", speaker="Joan", time="2023-09-01")]
    memory = Memory("I applied today", time="2023-08-25T13:33", speaker="Caroline", metadata={"source": "chat"})
    ids = official_ids(
        tokenizer_json,
        f"Melanie: How is Caroline doing?\n[2023-09-01] Joan: Fine!\n[2023-09-02 08:05] {query}",
        "[2023-08-25 13:33] Caroline: I applied today",
    )
    assert reranker.encode(query, memory, context=context, time="2023-09-02T08:05:59") == ids
    [logit] = reranker.score(query, [memory], context=context, time="2023-09-02T08:05:59", raw=True)
    assert logit == pytest.approx(ReferenceModel(tiny_checkpoint).logit(ids), abs=TOLERANCE)


def many_documents() -> list[str]:
    rng = np.random.default_rng(7)
    words = ["I", "she", "Caroline", "moved", "applied", "adopted", "in", "May", "2023", "blue", ",", "not", "yes", "?"]
    return [" ".join(rng.choice(words, length)) for length in rng.integers(0, 40, 80)]


def test_int8_ranks_like_fp32(int8_artifact: Path, fp32_artifact: Path) -> None:
    int8, fp32 = Reranker.load(int8_artifact), Reranker.load(fp32_artifact)
    for query in ("When did she move?", "dog"):
        exact, found = (reranker.score(query, many_documents(), raw=True) for reranker in (fp32, int8))
        error = np.abs(found - exact) / exact.std()  # random weights forgive little: usual are tau .95, rms .1, max .3
        assert kendalltau(exact, found).statistic > 0.88
        assert 0.005 < np.sqrt((error**2).mean()) < 0.2
        assert error.max() < 0.7


def test_int4_ranks_like_the_weights_it_stores_and_roughly_like_fp32(
    tiny_checkpoint: Path, int4_artifact: Path, fp32_artifact: Path
) -> None:
    int4, fp32 = Reranker.load(int4_artifact), Reranker.load(fp32_artifact)
    reference = ReferenceModel(tiny_checkpoint, stored_matrices(int4_artifact))
    query, documents = "When did she move?", many_documents()
    exact, found = (reranker.score(query, documents, raw=True) for reranker in (fp32, int4))
    of_stored = np.array([reference.logit(int4.encode(query, document)) for document in documents])
    assert kendalltau(exact, found).statistic > 0.3  # random weights forgive little: usual is .4 to .7, int8 has .95
    assert kendalltau(of_stored, found).statistic > 0.92
    assert rms(found - of_stored) < 0.15 * rms(found - exact)


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values).mean()))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("architecture", DECODERS)
def test_logits_are_those_of_transformers_with_the_stored_weights_and_rounded_inputs(
    architecture: str, precision: str, tmp_path: Path
) -> None:
    rounding = {"int8": rounded, "int4": partial(rounded, block=32)}.get(precision)
    checkpoint = make_checkpoint(
        tmp_path / "checkpoint",
        architecture=architecture, layers=1 if rounding else 3, hidden=72, intermediate=100,
        vocab=SMALL_VOCABULARY, dtype="float32",
    )  # fmt: skip
    reranker = Reranker.load(exported(checkpoint, tmp_path / "artifact", precision))
    documents = many_documents()[:16]
    official = official_ids if architecture.startswith("Qwen3") else official_mxbai_ids
    ids = [official(checkpoint / "tokenizer.json", "dog?", document) for document in documents]
    found = reranker.score("dog?", documents, raw=True)

    def errors(reference: ReferenceModel) -> np.ndarray:
        return np.abs(found - [reference.logit(prompt) for prompt in ids])

    stored = stored_matrices(tmp_path / "artifact")
    # A value next to the middle between two levels may go to either, so that a few documents may differ.
    assert (errors(ReferenceModel(checkpoint, stored, rounding)) < TOLERANCE).mean() >= (0.75 if rounding else 1)
    if rounding:
        assert errors(ReferenceModel(checkpoint, stored)).mean() > 50 * TOLERANCE
    if precision != "fp32":
        assert errors(ReferenceModel(checkpoint)).mean() > 3 * TOLERANCE


def rounded(tokens: torch.Tensor, block: int | None = None) -> torch.Tensor:
    """Every token, or every `block` numbers of it, rounded to 127 steps of either sign."""
    size = block or tokens.shape[-1]
    blocks = torch.nn.functional.pad(tokens, (0, -tokens.shape[-1] % size)).unflatten(-1, (-1, size))
    step = blocks.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
    return (torch.round(blocks / step) * step).flatten(-2)[..., : tokens.shape[-1]]


def test_the_manifest_holds_the_rounding_error_of_each_matrix(
    tiny_checkpoint: Path, int8_artifact: Path, fp32_artifact: Path
) -> None:
    stored = load_file(tiny_checkpoint / "model.safetensors")
    matrices = {name: tensor.double().numpy() for name, tensor in stored.items() if tensor.ndim == 2}
    int8, fp32 = (Reranker.load(artifact).manifest.plan for artifact in (int8_artifact, fp32_artifact))
    assert int8.keys() == fp32.keys() == matrices.keys()
    for name, matrix in matrices.items():
        step = np.abs(matrix).max(1, keepdims=True) / 127
        error = np.linalg.norm(np.round(matrix / step) * step - matrix) / np.linalg.norm(matrix)
        assert int8[name].form == "int8"
        assert int8[name].error == pytest.approx(error, rel=1e-4)
        assert (fp32[name].form, fp32[name].error) == ("fp32", 0)
