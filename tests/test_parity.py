"""Artifacts agree with transformers on the official prompt: to 1e-4 in fp32, to the noise of 8 bits in int8."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers
from safetensors.torch import load_file
from scipy.stats import kendalltau

from checkpoints import make_checkpoint
from conftest import exported
from memrerank import Memory, Reranker
from reference import INSTRUCTION, NO, YES, ReferenceModel, official_ids

TOLERANCE = 1e-4
"""Of an fp32 logit; logits of the tiny checkpoints vary by units."""

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

CONFIG_EDITS: dict[str, dict[str, Any]] = {
    "RoPE base and norm epsilon": {"rope_theta": 100.0, "rms_norm_eps": 0.5},
    "RoPE base in the layout of transformers 5": {"rope_parameters": {"rope_theta": 500, "rope_type": "default"}},
}


def assert_parity(reranker: Reranker, reference: ReferenceModel, tokenizer_json: Path) -> None:
    for query, instruction in CALLS:
        ids = [official_ids(tokenizer_json, query, document, instruction) for document in DOCUMENTS]
        assert [reranker.encode(query, document, instruction=instruction) for document in DOCUMENTS] == ids
        expected = [reference.logit(prompt) for prompt in ids]
        found = reranker.score(query, DOCUMENTS, instruction=instruction, raw=True)
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_fp32_logits_are_those_of_transformers(shape: dict[str, Any], tokenizer_json: Path, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", seed=1, **shape)
    reranker = Reranker.load(exported(checkpoint, tmp_path / "artifact", "fp32"))
    assert_parity(reranker, ReferenceModel(checkpoint), tokenizer_json)


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


def test_int8_computes_per_token_and_per_channel_rounding(tokenizer_json: Path, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", layers=1)
    reranker, reference = Reranker.load(exported(checkpoint, tmp_path / "int8", "int8")), ReferenceModel(checkpoint)
    documents = many_documents()[:50]
    ids = [official_ids(tokenizer_json, "dog?", document) for document in documents]
    found = reranker.score("dog?", documents, raw=True)
    rounding = np.abs(found - [reference.logit(prompt) for prompt in ids])
    # Not equal: a value next to the middle between two levels may go to either, and more values follow it.
    assert np.abs(found - rounded_logits(checkpoint, ids)).mean() < 0.5 * rounding.mean()


@torch.inference_mode()
def rounded_logits(checkpoint: Path, prompts: list[list[int]]) -> npt.NDArray[np.float32]:
    """transformers with every weight rounded by row, and every input of a linear layer by token, to 8 bits."""
    model = transformers.Qwen3ForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    score = model.lm_head.weight[YES] - model.lm_head.weight[NO]
    for module in model.model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            module.weight = torch.nn.Parameter(rounded(module.weight))
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0]),))
    return np.array([(model.model(torch.tensor([ids])).last_hidden_state[0, -1] @ score).item() for ids in prompts])


def rounded(rows: torch.Tensor) -> torch.Tensor:
    step = rows.abs().amax(-1, keepdim=True) / 127
    return torch.round(rows / step) * step


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
