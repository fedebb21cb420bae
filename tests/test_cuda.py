"""Artifacts for GPUs: their graphs on the CPU against transformers, and, where there is a GPU, on it."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from checkpoints import SMALL_VOCABULARY, make_checkpoint
from conftest import exported, source_of
from encoder_checkpoints import make_encoder
from memrerank import ArtifactError, DeviceError, Reranker, cli
from memrerank import padded_decoder as module
from memrerank.batching import PADDING, padded_batches
from memrerank.cuda import CudaSession, require_cuda
from memrerank.manifest import GRAPH, read_manifest, write_manifest
from memrerank.padded_decoder import MOST_TOKENS, PaddedDecoder, Room, room_for
from memrerank.session import open_session
from memrerank_export import cli as export_cli
from memrerank_export.config import DECODERS, PRECISIONS
from memrerank_export.errors import ExportError
from memrerank_export.estimate import estimate
from memrerank_export.export import export
from memrerank_export.forms import BLOCK, FORMS
from reference import ReferenceModel, official_ids, official_mxbai_ids, stored_matrices

TOLERANCE = {"fp32": 1e-4, "fp16": 0.05, "int8": 0.05, "int4": 0.05}
"""Of a logit; logits of the tiny checkpoints vary by units. In 16 bits a few hundredths get lost."""

QUERY = "When did she move?"
LARGEST_HALF = 65504


def many_documents(count: int = 16) -> list[str]:
    rng = np.random.default_rng(7)
    words = ["I", "she", "Caroline", "moved", "applied", "adopted", "in", "May", "2023", "blue", ",", "not", "yes", "?"]
    return [" ".join(rng.choice(words, length)) for length in rng.integers(0, 40, count)]


def expected_logits(reference: ReferenceModel, checkpoint: Path, architecture: str = "Qwen3") -> np.ndarray:
    official = official_ids if architecture.startswith("Qwen3") else official_mxbai_ids
    prompts = [official(checkpoint / "tokenizer.json", QUERY, document) for document in many_documents()]
    return np.array([reference.logit(prompt) for prompt in prompts])


# What the graphs compute


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("architecture", DECODERS)
def test_logits_are_those_of_transformers_with_the_stored_weights(
    architecture: str, precision: str, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(
        tmp_path / "checkpoint", architecture=architecture, hidden=72, intermediate=100, vocab=SMALL_VOCABULARY
    )
    reranker = Reranker.load(exported(checkpoint, tmp_path / "artifact", precision, device="cuda"), device="cpu")
    assert (reranker.manifest.device, reranker.manifest.precision) == ("cuda", precision)
    found = reranker.score(QUERY, many_documents(), raw=True)
    stored = ReferenceModel(checkpoint, stored_matrices(tmp_path / "artifact"))
    expected = expected_logits(stored, checkpoint, architecture)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[precision])
    if precision.startswith("int"):
        errors = np.abs(found - expected_logits(ReferenceModel(checkpoint), checkpoint, architecture))
        assert errors.mean() > 2 * np.abs(found - expected).mean()  # what is lost is lost by the weights


SHAPES: dict[str, dict[str, Any]] = {
    "one layer": {"layers": 1},
    "one head": {"heads": 1, "kv_heads": 1, "head_dim": 32},
    "heads of 128": {"heads": 4, "kv_heads": 2, "head_dim": 128},
    "six heads in three groups": {"heads": 6, "kv_heads": 3, "head_dim": 32, "hidden": 40},
    "classifier": {"architecture": "Qwen3ForSequenceClassification", "hidden": 48},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_fp32_logits_are_those_of_transformers(shape: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", vocab=SMALL_VOCABULARY, dtype="float32", **shape)
    reranker = Reranker.load(exported(checkpoint, tmp_path / "artifact", "fp32", device="cuda"), device="cpu")
    found = reranker.score(QUERY, many_documents(), raw=True)
    np.testing.assert_allclose(found, expected_logits(ReferenceModel(checkpoint), checkpoint), rtol=0, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
@pytest.mark.parametrize("where", ["stream", "inside"])
def test_large_activations_give_no_infinity(where: str, precision: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", vocab=SMALL_VOCABULARY, dtype="float32", layers=4)
    inject_large_activations(checkpoint, where)
    reference = ReferenceModel(checkpoint)
    largest = watch_largest(reference)
    expected = expected_logits(reference, checkpoint)
    assert largest[0] > 2 * LARGEST_HALF
    reranker = Reranker.load(exported(checkpoint, tmp_path / "artifact", precision, device="cuda"), device="cpu")
    found = reranker.score(QUERY, many_documents(), raw=True)
    assert np.isfinite(found).all()
    if precision == "fp16":
        assert np.sqrt(np.square(found - expected).mean()) < 0.05 * expected.std()


def inject_large_activations(checkpoint: Path, where: str) -> None:
    """Let a channel of the residual stream grow, or a product of gate and factor and a value that it undoes."""
    weights = load_file(checkpoint / "model.safetensors")
    if where == "stream":
        weights["model.layers.0.mlp.down_proj.weight"][5] *= 1e4
    else:
        for first, second in (("mlp.up_proj", "mlp.down_proj"), ("self_attn.v_proj", "self_attn.o_proj")):
            weights[f"model.layers.1.{first}.weight"][3:5] *= 3e4
            weights[f"model.layers.1.{second}.weight"][:, 3:5] /= 3e4
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})


def watch_largest(reference: ReferenceModel) -> list[float]:
    """The largest magnitude that a linear layer of the reference reads or gives."""
    largest = [0.0]

    def watch(_: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        largest[0] = max(largest[0], inputs[0].abs().max().item(), output.abs().max().item())

    for module_ in reference._decoder.modules():
        if isinstance(module_, torch.nn.Linear):
            module_.register_forward_hook(watch)
    return largest


def test_attention_has_no_mask_and_states_have_16_bits(cuda_artifact: Path) -> None:
    graph = onnx.load(cuda_artifact / GRAPH, load_external_data=False).graph
    attention = [node for node in graph.node if node.op_type == "Attention"]
    assert len(attention) == 3
    for node in attention:
        assert node.input[3] == ""
        assert {entry.name: entry.i for entry in node.attribute}["is_causal"] == 1
    cache = [*list(graph.input)[2:], *list(graph.output)[1:]]
    assert {value.type.tensor_type.elem_type for value in cache} == {onnx.TensorProto.FLOAT16}
    matrices = [node.input[1] for node in graph.node if node.op_type == "MatMul"]
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert {stored[name] for name in matrices} == {onnx.TensorProto.FLOAT16}
    assert not {node.op_type for node in graph.node} & {"SkipSimplifiedLayerNormalization", "Softmax"}


@pytest.mark.parametrize(("precision", "bits"), [("int8", 8), ("int4", 4)])
def test_quantized_linear_layers_are_what_the_fused_kernel_takes(precision: str, bits: int, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", vocab=SMALL_VOCABULARY, hidden=64, intermediate=128)
    artifact = exported(checkpoint, tmp_path / "artifact", precision, device="cuda")
    graph = onnx.load(artifact / GRAPH, load_external_data=False).graph
    nodes = [node for node in graph.node if node.op_type == "MatMulNBits"]
    stored = {tensor.name: tensor for tensor in graph.initializer}
    assert len(nodes) == 7 * 3
    for node in nodes:
        attributes = {entry.name: entry.i for entry in node.attribute}
        _, levels, scale = node.input  # no zero points, which the kernel refuses
        blocks = attributes["K"] // BLOCK
        assert (attributes["bits"], attributes["block_size"], attributes["K"] % BLOCK) == (bits, BLOCK, 0)
        assert list(stored[levels].dims) == [attributes["N"], blocks, BLOCK * bits // 8]
        assert (stored[scale].data_type, list(stored[scale].dims)) == (
            onnx.TensorProto.FLOAT16, [attributes["N"], blocks],
        )  # fmt: skip


def test_int8_blocks_are_within_half_a_step() -> None:
    matrix = np.random.default_rng(0).standard_t(3, (48, 100)).astype(np.float32)
    matrix[5, :32] = 0
    levels, scale = FORMS["int8-block"].encode(matrix)
    assert (levels.dtype, levels.shape, scale.dtype) == (np.uint8, (48, 4, 32), np.float16)
    assert (levels.min(), (levels[5, 0] == 128).all()) == (1, True)
    error = np.abs(FORMS["int8-block"].decode(levels, scale)[:, :100] - matrix)
    assert (error <= 0.55 * np.repeat(scale.astype(np.float32), 32, axis=1)[:, :100]).all()


# How it is scored


def test_the_order_of_documents_and_their_company_change_next_to_nothing(cuda_artifact: Path) -> None:
    reranker, documents = Reranker.load(cuda_artifact, device="cpu"), many_documents()
    found = reranker.score(QUERY, documents, raw=True)
    alone = [reranker.score(QUERY, [document], raw=True)[0] for document in documents]
    np.testing.assert_allclose(found, alone, rtol=0, atol=0.03)
    np.testing.assert_allclose(reranker.score(QUERY, documents[::-1], raw=True)[::-1], found, rtol=0, atol=0.03)


def test_long_documents_are_scored_in_parts(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", vocab=SMALL_VOCABULARY, dtype="float32")
    reranker = Reranker.load(exported(checkpoint, tmp_path / "artifact", "fp32", device="cuda"), device="cpu")
    document = "Caroline went to the park, then home. " * 30
    [logit] = reranker.score(QUERY, [document], raw=True)
    ids = official_ids(checkpoint / "tokenizer.json", QUERY, document)
    assert len(ids) > 3 * module.ON_CPU.chunk
    assert logit == pytest.approx(ReferenceModel(checkpoint).logit(ids), abs=1e-4)


def test_keys_and_values_stay_on_the_device_between_runs(cuda_artifact: Path) -> None:
    plain = PaddedDecoder(open_session(cuda_artifact / GRAPH))
    bound = PaddedDecoder(CudaSession(open_session(cuda_artifact / GRAPH), device="cpu"), Room(1000))
    head, query, rows = [5, 6, 7], [8, 9], [[1, 2, 3], [4], [5, 6]]
    past = bound.prefix(head, query)
    assert past.tokens == 5
    assert all(isinstance(tensor, ort.OrtValue) for tensor in past.tensors.values())
    assert {tuple(tensor.shape()) for tensor in past.tensors.values()} == {(1, 2, 5, 16)}
    np.testing.assert_array_equal(past.logits(rows), plain.prefix(head, query).logits(rows))


def test_runs_from_many_threads_are_made_one_after_the_other(cuda_artifact: Path) -> None:
    running, most = [], []

    class Watched:
        def __init__(self, session: ort.InferenceSession) -> None:
            self._session = session

        def __getattr__(self, name: str) -> Any:
            return getattr(self._session, name)

        def run_with_iobinding(self, binding: ort.IOBinding) -> None:
            running.append(None)
            most.append(len(running))
            self._session.run_with_iobinding(binding)
            running.pop()

    decoder = PaddedDecoder(CudaSession(Watched(open_session(cuda_artifact / GRAPH)), device="cpu"))
    past = decoder.prefix([5], [6])
    alone, found = past.logits([[1, 2], [3]]), []
    threads = [threading.Thread(target=lambda: found.append(past.logits([[1, 2], [3]]))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(found), max(most)) == (8, 1)
    assert all(np.array_equal(one, alone) for one in found)


def test_a_session_never_repeats_a_failed_run_on_the_cpu(cuda_artifact: Path) -> None:
    session = open_session(cuda_artifact / GRAPH)
    assert session._enable_fallback
    CudaSession(session)
    assert not session._enable_fallback


@given(lengths=st.lists(st.integers(1, 3000), max_size=60), rows=st.integers(1, 20), tokens=st.integers(1, 20_000))
def test_batches_hold_every_document_once_and_little_padding(lengths: list[int], rows: int, tokens: int) -> None:
    room = partial(lambda length: max(1, min(rows, tokens // length)))
    batches = padded_batches(lengths, room)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert len(batch) <= room(longest)
        assert sum(longest - lengths[i] for i in batch) <= PADDING


def test_documents_of_similar_length_share_one_run() -> None:
    lengths = np.random.default_rng(0).integers(30, 60, 100).tolist()
    assert [len(batch) for batch in padded_batches(lengths, lambda _: 1000)] == [100]
    assert [len(batch) for batch in padded_batches([*lengths, 4000], lambda _: 1000)] == [1, 100]


@given(
    memory=st.integers(1, 1 << 34),
    length=st.integers(1, 8192),
    past=st.integers(0, 8192),
    tokens=st.integers(256, 20_000),
)
def test_rows_of_a_run_fit_into_the_room(memory: int, length: int, past: int, tokens: int) -> None:
    room = Room(tokens, memory, token_bytes=50_000, past_bytes=8_000)
    rows = room.rows(length, past)
    assert rows >= 1
    if rows > 1:
        assert rows * length <= tokens
        assert rows * (length * room.token_bytes + (length + past) * room.past_bytes) <= memory
    assert room.chunk * (room.token_bytes + room.past_bytes) <= memory


def test_room_is_taken_from_free_memory_up_to_what_is_of_use(cuda_artifact: Path) -> None:
    manifest = read_manifest(cuda_artifact)
    scarce, plenty = room_for(manifest, 1_000_000), room_for(manifest, 1 << 40)
    assert (scarce.memory, scarce.token_bytes, scarce.past_bytes) == (1_000_000, 8 * 96 * 2, 2 * 2 * 32 * 2)
    assert scarce.rows(48, 128) < plenty.rows(48, 128) == MOST_TOKENS // 48
    assert plenty.memory < 1 << 28


def open_with_free_memory(
    artifact: Path, free: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[PaddedDecoder, dict[str, Any]]:
    """The artifact as on a GPU with so much free memory, on the CPU, and with which limit it was opened."""
    asked: dict[str, Any] = {}

    def open_session_on_gpu(graph: Path, memory_limit: int) -> CudaSession:
        asked["limit"] = memory_limit
        return CudaSession(open_session(graph), device="cpu")

    monkeypatch.setattr(module, "Driver", lambda: SimpleNamespace(free_memory=lambda: free))
    monkeypatch.setattr(module, "open_cuda_session", open_session_on_gpu)
    return module.open_on_gpu(read_manifest(artifact), artifact / GRAPH), asked


def test_the_arena_is_bounded_by_weights_and_room(cuda_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, asked = open_with_free_memory(cuda_artifact, 1 << 30, monkeypatch)
    weights = (cuda_artifact / "model.onnx.data").stat().st_size
    assert 2 * weights + decoder.room.memory < asked["limit"] < 1 << 30


def test_an_artifact_that_does_not_fit_is_refused(cuda_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match=r"has 1 MB of free memory and this artifact needs .* int8 or int4"):
        open_with_free_memory(cuda_artifact, 1 << 20, monkeypatch)


@given(free=st.integers(1 << 28, 1 << 38))
def test_no_more_than_the_free_memory_is_taken(free: int, cuda_artifact: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        try:
            decoder, asked = open_with_free_memory(cuda_artifact, free, patch)
        except DeviceError:
            assert free < 1 << 29
            return
    assert asked["limit"] < free
    assert decoder.chunk >= module.FEWEST_TOKENS


def test_a_graph_for_cpus_in_an_artifact_for_cuda_is_refused(artifact: Path) -> None:
    write_manifest(replace(read_manifest(artifact), device="cuda"), artifact)
    with pytest.raises(ArtifactError, match="input_ids, last"):
        Reranker.load(artifact, device="cpu", verify=False)


# How it is exported


def test_encoders_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    source = source_of(make_encoder(tmp_path / "checkpoint", "Bert"))
    with pytest.raises(ExportError, match="encoders are made for --device cpu only"):
        export(source, tmp_path / "out", "fp16", None, lambda *_: None, device="cuda")
    assert os.listdir(tmp_path) == ["checkpoint"]


def test_another_device_is_another_artifact(cuda_artifact: Path) -> None:
    source = source_of(cuda_artifact.parent / "checkpoint")
    with pytest.raises(ExportError, match="made with other options"):
        export(source, cuda_artifact, "fp16", None, lambda *_: None, device="cpu")
    again = export(source, cuda_artifact, "fp16", None, lambda *_: None, device="cuda")
    assert again.device == "cuda"


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_the_estimate_has_the_size_of_the_file(precision: str, cuda_artifact: Path, tmp_path: Path) -> None:
    source = source_of(cuda_artifact.parent / "checkpoint")
    manifest = export(source, tmp_path / "artifact", precision, None, lambda *_: None, device="cuda")
    assert estimate(source, precision, "cuda").size == manifest.files["model.onnx.data"].size


def test_the_commands_make_show_and_run_it(
    cuda_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = str(cuda_artifact.parent / "checkpoint"), str(tmp_path / "artifact")
    assert export_cli.main([checkpoint, out, "--device", "cuda", "--precision", "int4", "--no-fidelity"]) == 0
    assert export_cli.main([checkpoint, out, "--device", "cuda", "--precision", "int4", "--dry-run", "--json"]) == 0
    forms = {layers["form"] for layers in json.loads(capsys.readouterr().out.splitlines()[-1])["layers"]}
    assert forms == {"int4", "int8"}
    assert cli.main(["info", out]) == 0
    assert "device        cuda" in capsys.readouterr().out
    (tmp_path / "memories.txt").write_text("\n".join(many_documents(3)))
    arguments = ["rerank", QUERY, "--memories", str(tmp_path / "memories.txt"), "--artifact", out, "--json"]
    assert cli.main([*arguments, "--device", "cpu"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_the_command_names_the_reason_on_one_line(cuda_artifact: Path, tmp_path: Path) -> None:
    try:
        require_cuda()
    except DeviceError as error:
        reason = str(error)
    else:
        pytest.skip("there is a GPU here")
    (tmp_path / "memories.txt").write_text("one\ntwo")
    command = [sys.executable, "-m", "memrerank.cli", "rerank", QUERY, "--artifact", str(cuda_artifact)]
    command += ["--memories", str(tmp_path / "memories.txt")]
    auto = subprocess.run(command, capture_output=True, text=True)
    assert auto.returncode == 0
    assert auto.stderr.startswith("memrerank: This artifact was built for cuda")
    assert reason in auto.stderr
    asked = subprocess.run([*command, "--device", "cuda"], capture_output=True, text=True)
    assert (asked.returncode, asked.stdout, asked.stderr) == (1, "", f"memrerank: {reason}\n")


# On a GPU


def scored_on_gpu(artifact: Path, documents: Sequence[str]) -> np.ndarray:
    reranker = Reranker.load(artifact, device="cuda")
    assert reranker.device == "cuda"
    return reranker.score(QUERY, documents, raw=True)


@pytest.mark.cuda
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("architecture", ["Qwen3ForCausalLM", "Qwen2ForCausalLM"])
def test_a_gpu_computes_what_the_cpu_does(architecture: str, precision: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(
        tmp_path / "checkpoint", architecture=architecture, hidden=128, intermediate=192, heads=2, kv_heads=1,
        head_dim=64, vocab=SMALL_VOCABULARY,
    )  # fmt: skip
    artifact = exported(checkpoint, tmp_path / "artifact", precision, device="cuda")
    found = scored_on_gpu(artifact, many_documents())
    stored = ReferenceModel(checkpoint, stored_matrices(artifact))
    expected = expected_logits(stored, checkpoint, architecture)
    np.testing.assert_allclose(found, expected, rtol=0, atol=max(TOLERANCE[precision], 2e-3))


@pytest.mark.cuda
@pytest.mark.usefixtures("gpu")
def test_large_activations_give_no_infinity_on_a_gpu(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", vocab=SMALL_VOCABULARY, dtype="float32", layers=4)
    inject_large_activations(checkpoint, "stream")
    artifact = exported(checkpoint, tmp_path / "artifact", "fp16", device="cuda")
    assert np.isfinite(scored_on_gpu(artifact, many_documents())).all()
