"""Bad checkpoints of encoders are refused with the cause, and nothing is left behind."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import source_of
from encoder_checkpoints import make_encoder
from memrerank import MemrerankError
from memrerank_export.cli import main
from memrerank_export.errors import CheckpointError, ExportError, TemplateError
from memrerank_export.estimate import estimate
from memrerank_export.export import export
from memrerank_export.hub import find_checkpoint
from memrerank_export.prompts import built_in_prompt
from memrerank_export.source import read_source

Spoil = Callable[[Path], object]
QUERY_BIAS = "bert.encoder.layer.0.attention.self.query.bias"


@pytest.fixture(scope="module")
def good_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("good") / "checkpoint", "Bert", num_hidden_layers=2)


@pytest.fixture
def checkpoint(good_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint to spoil."""
    return Path(shutil.copytree(good_checkpoint, tmp_path / "checkpoint"))


def config(**values: object) -> Spoil:
    return edit("config.json", **values)


def edit(name: str, **values: object) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(content | values))

    return spoil


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        stored = load_file(folder / "model.safetensors")
        change(stored)
        save_file(stored, folder / "model.safetensors")

    return spoil


SPOILED: dict[str, tuple[Spoil, str]] = {
    "two labels": (config(id2label={"0": "no", "1": "yes"}), r"has 2 labels; .*exactly one"),
    "remote code": (config(auto_map={"AutoModel": "code.Model"}), r"auto_map.*never runs remote code"),
    "another architecture": (config(architectures=["BertModel"]), r"BertModel.*supported are .*BertForSequence"),
    "quantized": (config(quantization_config={"quant_method": "fp8"}), r"quantized already"),
    "relative positions": (config(position_embedding_type="relative_key"), r"'relative_key'; 'absolute' was expected"),
    "heads that do not divide": (config(num_attention_heads=5), r"hidden_size of 64, which 5 heads cannot share"),
    "no heads": (config(num_attention_heads=None), r"num_attention_heads = None; a positive whole number"),
    "no padding": (config(pad_token_id=None), r"pad_token_id = None; the id of the padding token"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer\.json is missing"),
    "tokenizer of another model": (config(vocab_size=100), r"tokens and config\.json a vocabulary of 100"),
    "tokenizer without pairs": (edit("tokenizer.json", post_processor=None), r"no special token between"),
    "pickled weights": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        r"pytorch_model\.bin\) are never read",
    ),
    "tensor missing": (tensors(lambda stored: stored.pop(QUERY_BIAS)), rf"Tensor {QUERY_BIAS} is in none of"),
    "another width": (config(intermediate_size=48), r"has the shape \[96.*\]; config\.json implies \[48"),
    "weights that are no numbers": (
        tensors(lambda stored: stored[QUERY_BIAS][:1].fill_(float("nan"))),
        rf"Tensor {QUERY_BIAS} holds NaN",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILED.values(), ids=SPOILED)
def test_a_bad_checkpoint_is_refused_with_the_cause(
    checkpoint: Path, tmp_path: Path, spoil: Spoil, message: str
) -> None:
    spoil(checkpoint)
    output = tmp_path / "artifacts" / "artifact"
    with pytest.raises(CheckpointError, match=message) as caught:
        export(source_of(checkpoint), output, "int8", None, lambda *_: None)
    assert "\n" not in str(caught.value)
    assert not output.parent.exists() or not list(output.parent.iterdir())


def test_a_template_or_an_instruction_is_refused(good_checkpoint: Path) -> None:
    origin = find_checkpoint(str(good_checkpoint), None)
    for prompt, instruction in ((built_in_prompt("Qwen3ForCausalLM"), None), (None, "Find the memory")):
        with pytest.raises(TemplateError, match="takes no template and no instruction"):
            read_source(origin, prompt, instruction)


@pytest.mark.parametrize("missing", ["torch", "optimum"])
def test_the_missing_extra_is_named(
    missing: str, good_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)  # what a module that cannot be imported looks like
    assert main([str(good_checkpoint), str(tmp_path / "artifact")]) == 1
    assert "pip install 'memrerank[encoders]'" in capsys.readouterr().err


@pytest.mark.parametrize("declared", [50, 10**30])
def test_texts_may_be_as_long_as_the_tokenizer_says(checkpoint: Path, declared: int) -> None:
    edit("tokenizer_config.json", model_max_length=declared)(checkpoint)
    assert source_of(checkpoint).limits.max_tokens == min(declared, 160)


def test_positions_that_old_checkpoints_store_are_ignored(checkpoint: Path, tmp_path: Path) -> None:
    tensors(lambda stored: stored.update({"bert.embeddings.position_ids": torch.arange(160)[None]}))(checkpoint)
    written = export(source_of(checkpoint), tmp_path / "artifact", "fp32", None, lambda *_: None)
    assert "bert.embeddings.position_ids" not in written.plan


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_graph_computes_in_float32_whatever_the_checkpoint_is_stored_in(
    good_checkpoint: Path, checkpoint: Path, tmp_path: Path, dtype: str
) -> None:
    config(dtype=dtype)(checkpoint)
    as_stored, as_float32 = (
        export(source_of(folder), tmp_path / name, "int8", None, lambda *_: None)
        for name, folder in (("stored", checkpoint), ("float32", good_checkpoint))
    )
    assert as_stored.files["model.onnx"] == as_float32.files["model.onnx"]


def test_a_rope_base_that_transformers_would_misread_is_refused(tmp_path: Path) -> None:
    checkpoint = make_encoder(tmp_path / "checkpoint", "ModernBert")
    config(rope_parameters={"sliding_attention": {"rope_theta": 10_000.0}})(checkpoint)
    assert source_of(checkpoint).limits.max_tokens == 160
    config(rope_parameters={"full_attention": {"rope_theta": 5_000.0}})(checkpoint)
    with pytest.raises(CheckpointError, match=r"rope_theta of 5000.0 for full_attention.*global_rope_theta"):
        source_of(checkpoint)


def test_what_config_json_leaves_out_is_as_in_transformers(tmp_path: Path) -> None:
    checkpoint = make_encoder(tmp_path / "checkpoint", "XLMRoberta")
    path = checkpoint / "config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "pad_token_id"}))
    source = source_of(checkpoint)
    assert (source.template.padding, source.limits.max_tokens) == (1, 158)


def test_an_estimate_needs_no_weights(checkpoint: Path, tmp_path: Path) -> None:
    written = export(source_of(checkpoint), tmp_path / "artifact", "int8", None, lambda *_: None)
    (checkpoint / "model.safetensors").unlink()
    planned = estimate(source_of(checkpoint), "int8")
    assert planned.size == written.files["model.onnx.data"].size
    assert sum(layers.count for layers in planned.layers) == len(written.plan)


def test_an_export_that_was_interrupted_is_completed(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "artifact"
    first = export(source_of(checkpoint), output, "int8", None, lambda *_: None)
    assert first.probe is not None
    assert export(source_of(checkpoint), output, "int8", None, lambda *_: None) == first
    with pytest.raises(ExportError, match="other options"):
        export(source_of(checkpoint), output, "fp32", None, lambda *_: None)


def test_the_same_checkpoint_gives_the_same_bytes(checkpoint: Path, tmp_path: Path) -> None:
    first, second = (
        export(source_of(checkpoint), tmp_path / name, "int8", None, lambda *_: None) for name in ("a", "b")
    )
    assert first.model_id == second.model_id


def test_errors_are_errors_of_memrerank() -> None:
    assert issubclass(TemplateError, MemrerankError)
