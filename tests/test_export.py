import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoints import SMALL_VOCABULARY, make_checkpoint
from conftest import source_of
from memrerank import ArtifactError, InputError, MemrerankError, Reranker
from memrerank.artifact import open_artifact
from memrerank.manifest import Manifest, read_manifest
from memrerank_bench.random_checkpoint import CONFIG_06B, write_random_checkpoint
from memrerank_calibration.pairs import Pair, read_pairs
from memrerank_export.config import PRECISIONS
from memrerank_export.errors import CheckpointError, ExportError
from memrerank_export.export import export
from memrerank_export.fidelity import built_in_pairs
from memrerank_export.hub import find_checkpoint
from memrerank_export.source import read_source
from memrerank_export.store import BLOCK_NUMBERS

PAIRS = built_in_pairs()[:3]
WRITING = "writing int8 weights"
UNTIL_WRITTEN = ("hashing the checkpoint", WRITING)
MEASURING = ("loading the reference", "comparing with the reference")
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with two layers and a vocabulary of a few hundred; not to be written to."""
    return make_checkpoint(tmp_path_factory.mktemp("small") / "reranker", layers=2, vocab=SMALL_VOCABULARY)


@pytest.fixture
def checkpoint(small_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the small checkpoint to spoil."""
    return Path(shutil.copytree(small_checkpoint, tmp_path / "checkpoints" / "reranker"))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Where to export to, in a folder that holds nothing else."""
    (tmp_path / "artifacts").mkdir()
    return tmp_path / "artifacts" / "artifact"


def nothing(stage: str, done: int, total: int) -> None:
    """No progress is shown."""


def quick_export(checkpoint: Path, output: Path, precision: str = "int8") -> Manifest:
    return export(source_of(checkpoint), output, precision, PAIRS, nothing)


def left_behind(output: Path) -> list[str]:
    return sorted(path.name for path in output.parent.iterdir())


# Changes that spoil a checkpoint

Spoil = Callable[[Path], object]


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def edit_json(name: str, change: Callable[[dict[str, Any]], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        change(content)
        write_json(folder / name, content)

    return spoil


def config(**values: object) -> Spoil:
    """Set keys of config.json; those set to None go away."""

    def change(content: dict[str, Any]) -> None:
        content |= values
        for key in [key for key, value in values.items() if value is None]:
            del content[key]

    return edit_json("config.json", change)


def classifier(**values: object) -> Spoil:
    return config(architectures=["Qwen3ForSequenceClassification"], **values)


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        stored = load_file(folder / WEIGHTS)
        change(stored)
        save_file(stored, folder / WEIGHTS)

    return spoil


def poison(name: str, value: float) -> Spoil:
    return tensors(lambda stored: stored[name].view(-1)[-1:].fill_(value))


def write(name: str, content: bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(content)


def remove(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


def truncate(name: str, size: int) -> Spoil:
    return lambda folder: os.truncate(folder / name, size)


def pickled_only(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def rename_token(old: str, new: str) -> Spoil:
    def change(content: dict[str, Any]) -> None:
        vocab = content["model"]["vocab"]
        content["model"]["merges"] = []
        content["model"]["vocab"] = {new if word == old else word: id for word, id in vocab.items()}
        for token in content["added_tokens"]:
            token["content"] = new if token["content"] == old else token["content"]

    return edit_json("tokenizer.json", change)


def logit_score(content: object) -> Spoil:
    def spoil(folder: Path) -> None:
        write_json(folder / "modules.json", [{"path": "1_LogitScore", "type": "some.module.LogitScore"}])
        write_json(folder / "1_LogitScore" / "config.json", content)

    return spoil


Q = "model.layers.1.self_attn.q_proj.weight"
NORM = "model.layers.0.self_attn.q_norm.weight"
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}

SPOILED = {
    "no config": (remove("config.json"), r"config\.json is missing from"),
    "config that is no JSON": (write("config.json", b"{'a': 1}"), r"config\.json is not valid JSON"),
    "config that is no text": (write("config.json", b"\xff\xfe{}"), r"config\.json is not valid JSON"),
    "config that is a list": (write("config.json", b"[]"), r"config\.json holds a JSON list; .* was expected"),
    "unknown architecture": (
        config(architectures=["LlamaForCausalLM"]),
        r"LlamaForCausalLM.*supported are Qwen3ForCausalLM, Qwen3ForSequenceClassification",
    ),
    "no architecture": (config(architectures=None), r"names the architectures \[\]"),
    "remote code": (config(auto_map={"AutoModel": "code.Model"}), r"auto_map.*never runs remote code"),
    "two labels": (classifier(id2label={"0": "no", "1": "yes"}), r"has 2 labels; .*exactly one"),
    "labels by number": (classifier(num_labels=3), r"has 3 labels; .*exactly one"),
    "no score vector": (classifier(id2label={"0": "yes"}), r"Tensor score\.weight is in none of model\.safetensors"),
    "size missing": (config(hidden_size=None), r"hidden_size = None; a positive whole number"),
    "size that is no number": (config(num_hidden_layers="2"), r"num_hidden_layers = '2'; a positive whole number"),
    "size of zero": (config(num_hidden_layers=0), r"num_hidden_layers = 0; a positive whole number"),
    "heads in no groups": (config(num_key_value_heads=3), r"4 attention heads for 3 key-value heads"),
    "another hidden size": (config(hidden_size=32), r"embed_tokens.weight has the shape \[320, 64\].*\[320, 32\]"),
    "another head size": (config(head_dim=8), r"has the shape \[64, 64\]; config\.json implies \[32, 64\]"),
    "more layers": (config(num_hidden_layers=3), r"Tensor model\.layers\.2\.\S+ is in none of .*incomplete"),
    "yarn": (config(rope_scaling=YARN), r"RoPE of type 'yarn'; only 'default'"),
    "yarn, older spelling": (config(rope_scaling={"type": "yarn", "factor": 4.0}), r"RoPE of type 'yarn'"),
    "yarn, newer layout": (config(rope_parameters=YARN | {"rope_theta": 1e6}), r"RoPE of type 'yarn'"),
    "no theta": (config(rope_theta=None), r"rope_theta = None; a positive number"),
    "scaling that is a text": (config(rope_scaling="yarn"), r"rope_scaling.*'yarn'"),
    "quantized": (config(quantization_config={"quant_method": "fp8"}), r"quantized already.*original checkpoint"),
    "biases": (config(attention_bias=True), "attention_bias"),
    "sliding window": (config(use_sliding_window=True), "sliding windows"),
    "another activation": (config(hidden_act="gelu"), "hidden_act 'gelu'; 'silu'"),
    "untied without lm_head": (config(tie_word_embeddings=False), r"Tensor lm_head\.weight is in none of"),
    "no weights": (remove(WEIGHTS), r"lacks model\.safetensors; put the complete safetensors"),
    "pickled weights": (pickled_only, r"lacks model\.safetensors.*pytorch_model\.bin\) are never read"),
    "truncated weights": (truncate(WEIGHTS, 50_000), r"model\.safetensors cannot be read.*download it again"),
    "truncated header": (truncate(WEIGHTS, 100), r"model\.safetensors cannot be read.*download it again"),
    "empty weights": (truncate(WEIGHTS, 0), r"model\.safetensors cannot be read.*download it again"),
    "weights that are none": (write(WEIGHTS, b"<html>not found</html>"), r"cannot be read as safetensors"),
    "index without shards": (write("model.safetensors.index.json", b"{}"), r"has no weight_map"),
    "index that is no JSON": (write("model.safetensors.index.json", b"{"), r"index\.json is not valid JSON"),
    "index of another form": (write("model.safetensors.index.json", b'{"weight_map": []}'), r"index\.json"),
    "shard elsewhere": (
        write("model.safetensors.index.json", b'{"weight_map": {"a": "../x.safetensors"}}'),
        "outside the checkpoint folder",
    ),
    "tensor missing": (tensors(lambda stored: stored.pop(Q)), rf"Tensor {Q} is in none of .*incomplete"),
    "tensor transposed": (
        tensors(lambda stored: stored.update({Q: torch.zeros(32, 64)})),
        rf"Tensor {Q} has the shape \[32, 64\]; config\.json implies \[64, 64\]",
    ),
    "tensor of integers": (
        tensors(lambda stored: stored.update({Q: torch.zeros(64, 64, dtype=torch.int8)})),
        rf"stores {Q} as I8; weights in F32, F16, BF16",
    ),
    "no tokenizer": (remove("tokenizer.json"), r"tokenizer\.json is missing"),
    "tokenizer that is none": (write("tokenizer.json", b"{}"), r"tokenizer\.json is not a tokenizer\.json"),
    "tokenizer of another model": (config(vocab_size=200), r"264 tokens and config\.json a vocabulary of 200"),
    "tokenizer without yes": (rename_token("yes", "ja"), r"no token 'yes'.*belongs to the checkpoint"),
    "tokenizer without no": (rename_token("no", "nein"), r"no token 'no'.*belongs to the checkpoint"),
    "tokenizer without chat": (rename_token("<|im_end|>", "<|end|>"), r"no token <\|im_end\|>.*template"),
    "tokenizer without thinking": (rename_token("<think>", "<t>"), "no token <think>"),
    "score tokens outside": (logit_score({"true_token_id": 320, "false_token_id": 1}), r"score token 320 lies outside"),
    "negative score tokens": (logit_score({"true_token_id": 1, "false_token_id": -1}), r"score token -1 lies outside"),
    "score tokens that are words": (logit_score({"true_token_id": "yes"}), "LogitScore.*integer id"),
    "modules that are no JSON": (write("modules.json", b"{"), r"modules\.json is not valid JSON"),
    "modules of another form": (write("modules.json", b'{"a": 1}'), r"modules\.json"),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILED.values(), ids=SPOILED)
def test_a_bad_checkpoint_is_refused_with_the_cause(checkpoint: Path, output: Path, spoil: Spoil, message: str) -> None:
    spoil(checkpoint)
    with pytest.raises(ExportError, match=message) as caught:
        quick_export(checkpoint, output)
    assert "\n" not in str(caught.value)
    assert left_behind(output) == []


@pytest.mark.parametrize("precision", ["int8", "int4", "fp16", "fp32"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", [Q, NORM, "model.embed_tokens.weight", "model.norm.weight"])
def test_weights_that_are_no_numbers_are_refused(
    checkpoint: Path, output: Path, name: str, value: float, precision: str
) -> None:
    poison(name, value)(checkpoint)
    with pytest.raises(CheckpointError, match=f"Tensor {name} holds NaN or infinity"):
        quick_export(checkpoint, output, precision)
    assert left_behind(output) == []


def test_a_missing_shard_is_named(tmp_path: Path, output: Path) -> None:
    folder = make_checkpoint(tmp_path / "sharded", layers=1, vocab=SMALL_VOCABULARY, shard_size="50KB")
    first, *others = sorted(folder.glob("*.safetensors"))
    assert others
    (folder / "pytorch_model.bin.index.json").write_text("{}")
    first.unlink()
    with pytest.raises(CheckpointError, match=f"lacks {first.name}; put the complete") as caught:
        quick_export(folder, output)
    assert "Pickled" not in str(caught.value)
    assert left_behind(output) == []


def test_an_odd_head_size_is_refused(tmp_path: Path, output: Path) -> None:
    folder = make_checkpoint(tmp_path / "odd", layers=1, vocab=SMALL_VOCABULARY, head_dim=15)
    with pytest.raises(CheckpointError, match="head_dim"):
        quick_export(folder, output)
    assert left_behind(output) == []


def test_what_is_no_folder_is_refused(small_checkpoint: Path, output: Path) -> None:
    for path in (small_checkpoint / "missing", small_checkpoint / WEIGHTS):
        with pytest.raises(CheckpointError, match=f"{path} is neither a folder nor the id of a repository on the hub"):
            quick_export(path, output)
    assert left_behind(output) == []


def test_an_unknown_precision_is_refused(small_checkpoint: Path, output: Path) -> None:
    with pytest.raises(ExportError, match=r"precision.*'int3'"):
        quick_export(small_checkpoint, output, "int3")
    assert left_behind(output) == []


# Exports that do not finish


def interrupted_export(checkpoint: Path, output: Path, stage: str, *, at_end: bool) -> None:
    def interrupt(name: str, done: int, total: int) -> None:
        if name == stage and (done == total or not at_end):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(source_of(checkpoint), output, "int8", PAIRS, interrupt)


@pytest.mark.parametrize("at_end", [False, True], ids=["first step", "last step"])
@pytest.mark.parametrize("stage", UNTIL_WRITTEN)
def test_an_export_interrupted_before_all_is_written_leaves_nothing(
    small_checkpoint: Path, output: Path, stage: str, at_end: bool
) -> None:
    interrupted_export(small_checkpoint, output, stage, at_end=at_end)
    assert left_behind(output) == []


@pytest.mark.parametrize("at_end", [False, True], ids=["first step", "last step"])
@pytest.mark.parametrize("stage", MEASURING)
def test_an_export_interrupted_while_it_measures_goes_on_from_what_is_written(
    small_checkpoint: Path, output: Path, stage: str, at_end: bool
) -> None:
    interrupted_export(small_checkpoint, output, stage, at_end=at_end)
    assert left_behind(output) == [output.name]
    assert read_manifest(output).fidelity == {"reference": None, "reason": "it was not measured"}
    written = {path.name: path.stat().st_ino for path in output.glob("model.*")}
    stages = set()
    finished = export(source_of(small_checkpoint), output, "int8", PAIRS, lambda stage, done, total: stages.add(stage))
    assert WRITING not in stages
    assert {path.name: path.stat().st_ino for path in output.glob("model.*")} == written
    assert finished.fidelity["pairs"] == len(PAIRS)
    assert finished == quick_export(small_checkpoint, output.with_name("in one go"))


def test_an_export_killed_before_its_known_pair_was_scored_does_not_load(
    small_checkpoint: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memrerank_export.export._measure_probe", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        quick_export(small_checkpoint, output)
    monkeypatch.undo()
    with pytest.raises(ArtifactError, match="Run the same memrerank-export command again"):
        Reranker.load(output)
    quick_export(small_checkpoint, output)
    assert Reranker.load(output).score("why?", ["because"]).shape == (1,)


def test_fidelity_can_be_skipped_and_measured_later(small_checkpoint: Path, output: Path) -> None:
    skipped = export(source_of(small_checkpoint), output, "int8", None, nothing)
    assert skipped.fidelity["reference"] is None
    measured = quick_export(small_checkpoint, output)
    assert measured.fidelity["reference"].startswith("transformers ")
    assert measured.model_id == skipped.model_id
    assert measured.probe == skipped.probe


@pytest.mark.parametrize("other", ["precision", "instruction", "checkpoint"])
def test_an_artifact_made_otherwise_is_not_taken_for_the_same(
    small_checkpoint: Path, checkpoint: Path, output: Path, other: str
) -> None:
    quick_export(small_checkpoint, output)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    source = read_source(
        find_checkpoint(str(small_checkpoint), None), None, "Another" if other == "instruction" else None
    )
    if other == "checkpoint":
        poison(NORM, 1.5)(checkpoint)
        source = source_of(checkpoint)
    with pytest.raises(ExportError, match="artifact of another checkpoint, or one made with other options"):
        export(source, output, "fp32" if other == "precision" else "int8", PAIRS, nothing)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def test_progress_counts_every_stage_to_its_end(small_checkpoint: Path, output: Path) -> None:
    steps: dict[str, list[tuple[int, int]]] = {}
    export(
        source_of(small_checkpoint),
        output,
        "int8",
        PAIRS,
        lambda stage, *step: steps.setdefault(stage, []).append(step),
    )
    assert tuple(steps) == UNTIL_WRITTEN + MEASURING
    for counted in steps.values():
        assert counted == sorted(counted)
        assert counted[-1][0] == counted[-1][1]
        assert len({total for _, total in counted}) == 1


@pytest.mark.parametrize("free", [0, 10_000])
def test_too_little_space_is_an_error_before_writing(
    small_checkpoint: Path, output: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    stages = []
    usage = SimpleNamespace(total=10**12, used=10**12 - free, free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ExportError, match=r"MB are needed .*free.*make room or give a folder on another disk"):
        export(source_of(small_checkpoint), output, "int8", PAIRS, lambda stage, *step: stages.append(stage))
    assert WRITING not in stages
    assert left_behind(output) == []


def test_a_disk_that_fills_up_is_an_error(small_checkpoint: Path, output: Path) -> None:
    def fill_up(stage: str, done: int, total: int) -> None:
        if stage == WRITING and done >= total // 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ExportError, match=f"cannot be written to {output} .*No space left"):
        export(source_of(small_checkpoint), output, "int8", PAIRS, fill_up)
    assert left_behind(output) == []


@pytest.mark.parametrize("precision", ["int8", "int4", "fp16", "fp32"])
def test_a_file_that_the_system_refuses_to_write_is_an_error(
    small_checkpoint: Path, output: Path, precision: str
) -> None:
    resource = pytest.importorskip("resource", reason="needs limits on the size of files")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    try:
        with pytest.raises(ExportError, match=f"cannot be written to {output}"):
            quick_export(small_checkpoint, output, precision)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert left_behind(output) == []


@pytest.mark.parametrize("kind", ["folder", "file", "full folder"])
def test_an_output_that_exists_is_refused_and_left_alone(small_checkpoint: Path, output: Path, kind: str) -> None:
    if kind == "file":
        output.write_text("mine")
    else:
        output.mkdir()
    if kind == "full folder":
        (output / "mine").write_text("mine")
    before = sorted(output.parent.rglob("*"))
    with pytest.raises(ExportError, match=f"{output} exists already; give a new folder"):
        quick_export(small_checkpoint, output)
    assert sorted(output.parent.rglob("*")) == before


def test_an_output_made_by_another_in_the_meantime_is_left_alone(small_checkpoint: Path, output: Path) -> None:
    def make(stage: str, done: int, total: int) -> None:
        if stage == WRITING and done < total and not output.exists():
            output.mkdir()
            (output / "theirs").write_text("theirs")

    with pytest.raises(ExportError, match=str(output)):
        export(source_of(small_checkpoint), output, "int8", PAIRS, make)
    assert left_behind(output) == [output.name]
    assert [path.name for path in output.iterdir()] == ["theirs"]


def test_an_output_below_a_file_is_refused(small_checkpoint: Path, output: Path) -> None:
    output.write_text("a file")
    with pytest.raises(ExportError, match=str(output)):
        quick_export(small_checkpoint, output / "artifact")


def test_folders_above_the_output_are_made(small_checkpoint: Path, output: Path) -> None:
    below = output / "a" / "b"
    quick_export(small_checkpoint, below)
    assert left_behind(below) == ["b"]
    assert Reranker.load(below).score("why?", ["because"]).shape == (1,)


# Exports that are killed, and several at once


FOUR_FILES = ["manifest.json", "model.onnx", "model.onnx.data", "tokenizer.json"]

KILL = """
import os, random, signal, sys, time
from pathlib import Path
sys.modules["transformers"] = None
from memrerank_export import cli, estimate, export, report

checkpoint, folder, times, sent = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), signal.Signals[sys.argv[4]]

def start(output):
    '''Begin an export in a child, and wait until it has made its first file.'''
    output.parent.mkdir()
    child = os.fork()
    if child == 0:
        code, sys.stdout = 1, open(os.devnull, "w")
        try:
            code = cli.main([checkpoint, str(output)])
        except SystemExit as stop:
            code = stop.code
        finally:
            os._exit(code)
    while not os.listdir(output.parent):
        time.sleep(0.0002)
    return child, time.monotonic()

output = folder / "whole" / "artifact"
child, begun = start(output)
while not output.exists():
    time.sleep(0.0002)
written = time.monotonic() - begun
assert os.waitpid(child, 0)[1] == 0
ended = time.monotonic() - begun

choice = random.Random(0)
for i in range(times):
    child, begun = start(folder / str(i) / "artifact")
    time.sleep(choice.uniform(0, written) if i % 2 else choice.uniform(written, ended))
    os.kill(child, sent)
    print("code", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

AT_ONCE = """
import os, sys, time
from pathlib import Path
from memrerank_export import cli
here, until, *arguments = sys.argv[1:]

def wait(bars, stage, done, total):
    '''Go on once the other process has come to this stage, too.'''
    if stage == until:
        Path(here, str(os.getpid())).touch()
        while len(os.listdir(here)) < 2:
            time.sleep(0.001)

cli.ProgressBars.__call__ = wait
sys.exit(cli.main([*arguments, "--no-fidelity"]))
"""


def killed_exports(checkpoint: Path, folder: Path, signal: str, times: int = 14) -> list[tuple[Path, int]]:
    """Where exports were killed at different moments, half of them while they wrote, with their exit codes."""
    folder.mkdir()
    done = run(KILL, checkpoint, folder, times, signal)
    codes = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("code ")]
    assert len(codes) == times, done.stderr
    return [(folder / str(i) / "artifact", code) for i, code in enumerate(codes)]


def run(code: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def run_at_once(stage: str, folder: Path, *commands: tuple[object, ...]) -> list[tuple[int, str]]:
    """Run two exports that wait for each other at `stage`; their exit codes and what they print on standard error."""
    folder.mkdir()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", AT_ONCE, folder, stage, *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    try:
        printed = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, printed, strict=True)]


def assert_whole(output: Path) -> None:
    assert sorted(path.name for path in output.iterdir()) == FOUR_FILES
    assert open_artifact(output, verify=True) == read_manifest(output)


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")


@needs_fork
def test_a_killed_export_leaves_nothing_or_a_whole_artifact_that_is_completed(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    killed = killed_exports(small_checkpoint, tmp_path / "killed", "SIGKILL")
    assert -9 in {code for _, code in killed}
    assert {code for _, code in killed} <= {-9, 0}
    for output, _ in killed:
        if output.exists():
            open_artifact(output, verify=True)
        export(source_of(small_checkpoint), output, "int8", None, nothing)
        assert Reranker.load(output).score("why?", ["because"]).shape == (1,)


@needs_fork
def test_a_terminated_export_leaves_nothing_unfinished(small_checkpoint: Path, tmp_path: Path) -> None:
    terminated = killed_exports(small_checkpoint, tmp_path / "terminated", "SIGTERM")
    assert 143 in {code for _, code in terminated}
    assert {code for _, code in terminated} <= {143, 0}
    for output, _ in terminated:
        if output.exists():
            assert_whole(output)
    unfinished = [output for output, _ in terminated if left_behind(output) not in ([], [output.name])]
    assert len(unfinished) <= 1  # a signal may come while the temporary folder is removed


def test_an_interrupted_rewriting_of_the_manifest_leaves_the_old_one_alone(
    small_checkpoint: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = export(source_of(small_checkpoint), output, "int8", None, nothing)
    monkeypatch.setattr(Path, "replace", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        quick_export(small_checkpoint, output)
    assert read_manifest(output) == before
    assert_whole(output)


def test_two_exports_at_once_into_one_folder_make_one_artifact(
    small_checkpoint: Path, output: Path, tmp_path: Path
) -> None:
    command = (small_checkpoint, output)
    (won, _), (lost, reason) = sorted(run_at_once(WRITING, tmp_path / "ready", command, command))
    assert (won, lost) == (0, 1)
    assert reason.startswith(f"memrerank-export: The artifact cannot be written to {output}")
    assert reason.count("\n") == 1
    assert left_behind(output) == [output.name]
    assert_whole(output)
    assert Reranker.load(output).score("why?", ["because"]).shape == (1,)


def test_two_exports_at_once_that_find_the_artifact_both_take_it(
    small_checkpoint: Path, output: Path, tmp_path: Path
) -> None:
    made = export(source_of(small_checkpoint), output, "int8", None, nothing)
    command = (small_checkpoint, output)
    assert run_at_once(UNTIL_WRITTEN[0], tmp_path / "ready", command, command) == [(0, ""), (0, "")]
    assert left_behind(output) == [output.name]
    assert_whole(output)
    assert read_manifest(output) == made


def test_two_exports_at_once_into_different_folders_do_not_meet(
    small_checkpoint: Path, output: Path, tmp_path: Path
) -> None:
    other = output.with_name("artifact.2")
    commands = ((small_checkpoint, output), (small_checkpoint, other))
    assert run_at_once(WRITING, tmp_path / "ready", *commands) == [(0, ""), (0, "")]
    assert left_behind(output) == [output.name, other.name]
    for each in (output, other):
        assert_whole(each)
        assert Reranker.load(each).score("why?", ["because"]).shape == (1,)
    assert read_manifest(output) == read_manifest(other)


# What an export writes


@pytest.mark.parametrize("precision", ["int8", "int4", "fp16", "fp32"])
def test_the_same_checkpoint_gives_the_same_bytes(small_checkpoint: Path, output: Path, precision: str) -> None:
    second = output.with_name("second")
    quick_export(small_checkpoint, output, precision)
    quick_export(small_checkpoint, second, precision)
    files = {path.name: path.read_bytes() for path in output.iterdir()}
    assert sorted(files) == ["manifest.json", "model.onnx", "model.onnx.data", "tokenizer.json"]
    assert files == {path.name: path.read_bytes() for path in second.iterdir()}


EXPORT_ALL = """
import os, sys
cpus, checkpoint, folder = sys.argv[1:]
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cpus)])
from memrerank_export.cli import main
from memrerank_export.config import PRECISIONS
sys.exit(any([main([checkpoint, f"{folder}/{each}", "--precision", each, "--no-fidelity"]) for each in PRECISIONS]))
"""


def test_every_process_writes_the_same_bytes_on_any_number_of_cpus(small_checkpoint: Path, tmp_path: Path) -> None:
    shape = {"vocab_size": SMALL_VOCABULARY, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    assert BLOCK_NUMBERS < 1024 * 2304  # so that several threads share a matrix
    checkpoint = write_random_checkpoint(
        tmp_path / "checkpoint", CONFIG_06B | shape | {"intermediate_size": 2304}, small_checkpoint / "tokenizer.json"
    )
    folders = {seed: tmp_path / f"seed {seed}" for seed in (0, 1)}
    for seed, folder in folders.items():
        done = run(EXPORT_ALL, seed + 1, checkpoint, folder, env=os.environ | {"PYTHONHASHSEED": str(seed)})
        assert done.returncode == 0, done.stderr
    for precision in PRECISIONS:
        first, second = (folder / precision for folder in folders.values())
        assert sorted(path.name for path in first.iterdir()) == FOUR_FILES
        for name in FOUR_FILES:
            assert (first / name).read_bytes() == (second / name).read_bytes(), (precision, name)


def test_the_manifest_names_no_folder_of_this_machine(small_checkpoint: Path, output: Path) -> None:
    manifest = quick_export(small_checkpoint, output)
    assert manifest == read_manifest(output)
    assert manifest.source["checkpoint"] == small_checkpoint.name
    for path in output.iterdir():
        assert str(small_checkpoint.parent).encode() not in path.read_bytes()


def test_the_manifest_records_every_matrix(small_checkpoint: Path, output: Path) -> None:
    exact = quick_export(small_checkpoint, output, "fp32").plan
    rounded = quick_export(small_checkpoint, output.with_name("int8"), "int8").plan
    assert {name: record.shape for name, record in exact.items()} == {
        name: record.shape for name, record in rounded.items()
    }
    assert {(record.form, record.error) for record in exact.values()} == {("fp32", 0.0)}
    assert {record.form for record in rounded.values()} == {"int8"}
    assert all(0 < record.error < 0.02 for record in rounded.values())
    count = load_file(small_checkpoint / WEIGHTS)
    matrices = sum(tensor.numel() for tensor in count.values() if tensor.ndim == 2)
    assert sum(int(np.prod(record.shape)) for record in rounded.values()) == matrices


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-4), ("int8", 1.0)])
def test_fidelity_is_measured_against_transformers(
    small_checkpoint: Path, output: Path, precision: str, bound: float
) -> None:
    found = quick_export(small_checkpoint, output, precision).fidelity
    assert found["reference"].startswith("transformers ")
    assert found["pairs"] == len(PAIRS)
    assert 0 < found["mean_difference"] <= found["max_difference"] < bound
    assert -1 <= found["kendall_tau"] <= 1
    if precision == "fp32":
        assert found["kendall_tau"] == 1


@pytest.mark.parametrize("missing", ["transformers", "torch", "memory"])
def test_fidelity_is_measured_against_our_own_fp32_where_transformers_cannot_run(
    small_checkpoint: Path, output: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    with_transformers = quick_export(small_checkpoint, output.with_name("with")).fidelity
    if missing == "memory":
        monkeypatch.setattr("memrerank_export.reference._free_memory", lambda: 1000)
    else:
        monkeypatch.setitem(sys.modules, missing, None)
    found = quick_export(small_checkpoint, output).fidelity
    assert found["reference"].startswith("memrerank ")
    assert found["max_difference"] == pytest.approx(with_transformers["max_difference"], abs=1e-4)
    assert found["kendall_tau"] == with_transformers["kendall_tau"]
    assert Reranker.load(output).manifest.fidelity == found
    assert left_behind(output) == ["artifact", "with"]


@pytest.mark.parametrize(("precision", "reason"), [("fp32", "not installed"), ("int8", "MB are free")])
def test_fidelity_is_null_with_the_reason_where_there_is_no_reference(
    small_checkpoint: Path, output: Path, monkeypatch: pytest.MonkeyPatch, precision: str, reason: str
) -> None:
    export(source_of(small_checkpoint), output, precision, None, nothing)
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    found = quick_export(small_checkpoint, output, precision).fidelity
    assert found["reference"] is None
    assert reason in found["reason"]
    assert not {"max_difference", "kendall_tau"} & found.keys()
    assert Reranker.load(output).manifest.fidelity == found


def test_exporting_needs_neither_torch_nor_transformers(small_checkpoint: Path, output: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['transformers'] = None\n"
        "from memrerank_export.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "print(sorted({'torch', 'onnxscript', 'optimum', 'huggingface_hub'} & set(sys.modules)))\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, small_checkpoint, output], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "against memrerank" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


# Reading pairs


def test_pairs_are_read_with_all_their_parts(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    full = {
        "query": "who?",
        "document": {"text": "Ann", "time": "2024-01-01", "speaker": "Tom", "more": 1},
        "label": 0.5,
        "context": ["a", "b"],
        "time": "2024-02-03",
        "weight": 2,
    }
    bare = {"query": "who?", "document": "Ann", "label": 1, "context": None, "time": None}
    path.write_text(json.dumps(full) + "\r\n\n" + json.dumps(bare), encoding="utf-8")
    first, second = read_pairs(path)
    assert (first.query, first.label, first.weight, first.time) == ("who?", 0.5, 2.0, "2024-02-03")
    assert (first.document.text, first.document.time, first.document.speaker) == ("Ann", "2024-01-01", "Tom")
    assert first.context == ("a", "b")
    assert second == Pair("who?", second.document, 1.0)
    assert second.document.text == "Ann"


BROKEN_PAIRS = {
    "no JSON": "{",
    "a list": "[]",
    "a number": "5",
    "null": "null",
    "a text": '"text"',
    "no query": '{"document": "b", "label": 1}',
    "no document": '{"query": "a", "label": 1}',
    "no label": '{"query": "a", "document": "b"}',
    "query of another kind": '{"query": 5, "document": "b", "label": 1}',
    "document of another kind": '{"query": "a", "document": 5, "label": 1}',
    "document without text": '{"query": "a", "document": {"time": "2024-01-01"}, "label": 1}',
    "label too large": '{"query": "a", "document": "b", "label": 1.01}',
    "label too small": '{"query": "a", "document": "b", "label": -1}',
    "label that is NaN": '{"query": "a", "document": "b", "label": NaN}',
    "label that is a text": '{"query": "a", "document": "b", "label": "high"}',
    "label that is null": '{"query": "a", "document": "b", "label": null}',
    "context that is a text": '{"query": "a", "document": "b", "label": 1, "context": "Ann: hello"}',
    "context of numbers": '{"query": "a", "document": "b", "label": 1, "context": [5]}',
    "context that is a number": '{"query": "a", "document": "b", "label": 1, "context": 5}',
    "time that is a number": '{"query": "a", "document": "b", "label": 1, "time": 5}',
    "negative weight": '{"query": "a", "document": "b", "label": 1, "weight": -1}',
    "infinite weight": '{"query": "a", "document": "b", "label": 1, "weight": Infinity}',
}


@pytest.mark.parametrize("line", BROKEN_PAIRS.values(), ids=BROKEN_PAIRS)
def test_a_line_that_is_no_pair_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(f'{{"query": "a", "document": "b", "label": 1}}\n\n{line}\n')
    with pytest.raises(InputError, match=rf"^Line 3 of {path} is not a pair .* a line such as "):
        read_pairs(path)


@pytest.mark.parametrize("content", [None, b"", b"\n \n", b"\xff\n"], ids=["missing", "empty", "blank", "no text"])
def test_a_file_without_pairs_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "pairs.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path} (holds no pairs|cannot be read).*JSON lines|a line such as"):
        read_pairs(path)


def test_errors_of_the_exporter_are_errors_of_memrerank() -> None:
    assert issubclass(CheckpointError, ExportError)
    assert issubclass(ExportError, MemrerankError)
