import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from tokenizers import Tokenizer

from checkpoints import SMALL_VOCABULARY, make_checkpoint
from conftest import exported
from memrerank import ArtifactError, Reranker, cli
from memrerank.manifest import read_manifest, write_manifest
from memrerank.template import Rendering
from memrerank_export import cli as export_cli
from memrerank_export.prompts import read_prompt

QUERY = "When did she apply?"
TEXTS = ["I applied to agencies!", "We painted the kitchen.", "The train was late.", "Nothing happened."]
MEMORIES = [
    TEXTS[0],
    {"text": "Üben", "time": "2023-08-25T13:33", "speaker": "Caroline", "id": 7},
    {"text": "yes", "speaker": None},
]


IM_START = 151_644
EXPORT_OPTIONS = [
    *("CHECKPOINT", "OUT", "--precision", "fp32", "fp16", "int8", "int4", "--device", "--revision", "--template"),
    *("--instruction", "--dry-run", "--pairs", "--no-fidelity", "--calibrate", "--json"),
]


@pytest.fixture(scope="module")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with one layer and a vocabulary of a few hundred; not to be written to."""
    return make_checkpoint(tmp_path_factory.mktemp("small") / "reranker", layers=1, vocab=SMALL_VOCABULARY)


@pytest.fixture
def memories(tmp_path: Path) -> Path:
    path = tmp_path / "memories.txt"
    path.write_text("\n".join(TEXTS) + "\n\n", encoding="utf-8")
    return path


@pytest.fixture
def json_lines(tmp_path: Path) -> Path:
    path = tmp_path / "memories.jsonl"
    path.write_text("\n\n".join(map(json.dumps, MEMORIES)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def reranker(int8_artifact: Path) -> Reranker:
    return Reranker.load(int8_artifact)


class Shell:
    """Runs a command's main function and keeps what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, main: Callable[[list[str]], int], *arguments: object) -> tuple[int, str, str]:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = self._capsys.readouterr()
        return code, printed.out, printed.err

    def fails(self, main: Callable[[list[str]], int], *arguments: object) -> str:
        """The one line that a command which exits with 1 prints, without the command's name."""
        code, out, err = self(main, *arguments)
        assert (code, out) == (1, "")
        name, _, reason = err.partition(": ")
        assert name == ("memrerank" if main is cli.main else "memrerank-export")
        assert reason.count("\n") == 1
        assert reason.endswith("\n")
        return reason


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def run(module: str, *arguments: object, encoding: str = "utf-8", **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding=encoding, timeout=120, **options)


# memrerank rerank


def test_rerank_prints_a_table_best_first(
    shell: Shell, memories: Path, int8_artifact: Path, reranker: Reranker
) -> None:
    code, out, err = shell(cli.main, "rerank", QUERY, "--memories", memories, "--artifact", int8_artifact)
    assert (code, err) == (0, "")
    header, *rows = out.splitlines()
    assert header.split() == ["score", "#", "memory"]
    expected = reranker.rerank(QUERY, TEXTS)
    assert [row.split(maxsplit=2) for row in rows] == [
        [f"{hit.score:.3f}", str(hit.index), hit.document] for hit in expected
    ]


def test_rerank_prints_json_lines_with_what_was_ranked(
    shell: Shell, json_lines: Path, int8_artifact: Path, reranker: Reranker
) -> None:
    code, out, err = shell(cli.main, "rerank", QUERY, "--memories", json_lines, "--artifact", int8_artifact, "--json")
    assert (code, err) == (0, "")
    hits = [json.loads(line) for line in out.splitlines()]
    expected = reranker.rerank(QUERY, MEMORIES)
    assert [(hit["index"], hit["score"], hit["logit"], hit["band"]) for hit in hits] == [
        (hit.index, hit.score, hit.logit, hit.band) for hit in expected
    ]
    (said,) = (hit for hit in hits if hit["index"] == 1)
    assert (said["text"], said["time"], said["speaker"]) == ("Üben", "2023-08-25T13:33", "Caroline")


def test_rerank_shows_time_and_speaker_and_no_control_character(
    shell: Shell, tmp_path: Path, int8_artifact: Path
) -> None:
    path = tmp_path / "memories.jsonl"
    path.write_text(
        json.dumps({"text": "a\nb\x1b[31m\u202e" + "long " * 200, "time": "2023-08-25T13:33", "speaker": "Ann"})
    )
    _, out, _ = shell(cli.main, "rerank", QUERY, "--memories", path, "--artifact", int8_artifact)
    _, row = out.splitlines()
    assert "[2023-08-25 13:33] Ann: a b [31m long" in row
    assert row.endswith("…")
    assert row.isprintable()


def test_rerank_passes_its_options_on(
    shell: Shell, memories: Path, tmp_path: Path, int8_artifact: Path, reranker: Reranker
) -> None:
    (tmp_path / "turns.txt").write_text("Melanie: How is Caroline?\n\nTom: Well.\n")
    with pytest.warns(UserWarning, match="not calibrated"):
        _, out, _ = shell(
            cli.main, "rerank", QUERY, "--memories", memories, "--artifact", int8_artifact, "--json",
            "--top-k", 2, "--threshold", 0.01, "--context", tmp_path / "turns.txt", "--time", "2024-01-01",
            "--instruction", "Find lies", "--threads", 1, "--device", "cpu",
        )  # fmt: skip
    context = ["Melanie: How is Caroline?", "Tom: Well."]
    expected = reranker.rerank(QUERY, TEXTS, context=context, time="2024-01-01", instruction="Find lies", top_k=2)
    assert [json.loads(line)["logit"] for line in out.splitlines()] == [hit.logit for hit in expected]
    assert len(expected) == 2


def test_rerank_may_find_nothing(shell: Shell, tmp_path: Path, int8_artifact: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    arguments = ("rerank", QUERY, "--memories", tmp_path / "empty.txt", "--artifact", int8_artifact)
    code, out, _ = shell(cli.main, *arguments)
    assert (code, "(no memories)" in out) == (0, True)
    assert shell(cli.main, *arguments, "--json") == (0, "", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain\n{not json}\n", ["plain", "{not json}"]),
        ('{"text": "a"}\n"b"\n', ["a", "b"]),
        ('\ufeff{"text": "a"}\n"b"\n', ["a", "b"]),
        ("", []),
    ],
)
def test_rerank_reads_standard_input(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, int8_artifact: Path, text: str, expected: list[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    code, out, _ = shell(cli.main, "rerank", QUERY, "--memories", "-", "--artifact", int8_artifact, "--json")
    hits = sorted((json.loads(line) for line in out.splitlines()), key=lambda hit: hit["index"])
    assert (code, [hit["text"] for hit in hits]) == (0, expected)


def test_rerank_reports_memories_that_were_cut(shell: Shell, tmp_path: Path, int8_artifact: Path) -> None:
    (tmp_path / "long.txt").write_text("short\n" + "word " * 3000)
    code, out, err = shell(
        cli.main, "rerank", QUERY, "--memories", tmp_path / "long.txt", "--artifact", int8_artifact, "--json"
    )
    assert (code, len(out.splitlines())) == (0, 2)
    assert err == "memrerank: cut to fit: memories 1\n"


@pytest.mark.parametrize(
    "line", ["{", "5", "null", "[]", "[" * 200_000, '{"content": "text"}', '{"text": "a", "time": 5}', "text"]
)
def test_rerank_names_the_line_that_is_no_memory(shell: Shell, tmp_path: Path, int8_artifact: Path, line: str) -> None:
    path = tmp_path / "memories.jsonl"
    path.write_text(f'"fine"\n\n{line}\n"fine"\n')
    reason = shell.fails(cli.main, "rerank", QUERY, "--memories", path, "--artifact", int8_artifact)
    assert reason.startswith(f"Line 3 of {path} is not a memory")


def test_rerank_names_what_cannot_be_read(shell: Shell, memories: Path, tmp_path: Path, int8_artifact: Path) -> None:
    missing, broken = tmp_path / "missing.txt", tmp_path / "broken.txt"
    broken.write_bytes(b"\xff\xfe\n")
    assert str(missing) in shell.fails(cli.main, "rerank", QUERY, "--memories", missing, "--artifact", int8_artifact)
    assert "UTF-8" in shell.fails(cli.main, "rerank", QUERY, "--memories", broken, "--artifact", int8_artifact)
    for path, named in ((missing, str(missing)), (broken, "UTF-8")):
        arguments = ("--memories", memories, "--artifact", int8_artifact, "--context", path)
        assert named in shell.fails(cli.main, "rerank", QUERY, *arguments)
    reason = shell.fails(cli.main, "rerank", QUERY, "--memories", memories, "--artifact", missing)
    assert f"{missing} is not a folder" in reason


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--top-k", "-1", "top_k is -1"), ("--threads", "0", "threads is 0"), ("--device", "cuda", "built for cpu")],
)
def test_rerank_refuses_options_that_make_no_sense(
    shell: Shell, memories: Path, int8_artifact: Path, option: str, value: str, message: str
) -> None:
    arguments = ("rerank", QUERY, "--memories", memories, "--artifact", int8_artifact, option, value)
    assert message in shell.fails(cli.main, *arguments)


def test_rerank_can_be_interrupted(shell: Shell, memories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> Reranker:
        raise KeyboardInterrupt

    monkeypatch.setattr(Reranker, "load", interrupted)
    assert shell.fails(cli.main, "rerank", QUERY, "--memories", memories) == "interrupted.\n"


def test_rerank_as_a_process(memories: Path, int8_artifact: Path) -> None:
    done = run("memrerank.cli", "rerank", QUERY, "--memories", memories, "--artifact", int8_artifact, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(json.loads(line)["index"] for line in done.stdout.splitlines()) == [0, 1, 2, 3]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_a_command_fails_when_its_output_cannot_be_written(int8_artifact: Path) -> None:
    """Also where Python would write it only when the process ends."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "memrerank.cli", "verify", str(int8_artifact)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        )
    assert done.returncode == 1
    assert done.stderr.startswith("memrerank: [Errno 28]")
    assert len(done.stderr.splitlines()) == 1


def test_rerank_prints_what_the_terminal_can_show(tmp_path: Path, int8_artifact: Path) -> None:
    (tmp_path / "memories.txt").write_text("Grüße 🚀 " + "lang " * 100, encoding="utf-8")
    arguments = ("rerank", QUERY, "--memories", tmp_path / "memories.txt", "--artifact", int8_artifact)
    done = run("memrerank.cli", *arguments, encoding="latin-1", env=os.environ | {"PYTHONIOENCODING": "latin-1"})
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2


# memrerank info and verify


def test_info_shows_what_an_artifact_is(shell: Shell, int8_artifact: Path) -> None:
    code, out, err = shell(cli.main, "info", int8_artifact)
    assert (code, err) == (0, "")
    shown = {line[:14].rstrip(): line[14:] for line in out.splitlines()}
    manifest = read_manifest(int8_artifact)
    assert shown["model id"] == manifest.model_id
    assert shown["instruction"] == manifest.template.instruction
    assert shown["artifact"] == str(int8_artifact)
    assert shown["device"] == "cpu"
    assert shown["precision"].startswith("int8")
    assert "Qwen3ForCausalLM" in shown["model"]
    assert "transformers" in shown["fidelity"]
    assert "none" in shown["calibration"]


@pytest.mark.parametrize(("precision", "shown"), [("fp16", True), ("fp32", False), ("int8", False), ("int4", False)])
def test_info_says_what_is_computed_in_another_precision_than_it_is_stored_in(
    shell: Shell, small_checkpoint: Path, tmp_path: Path, precision: str, shown: bool
) -> None:
    code, out, _ = shell(cli.main, "info", exported(small_checkpoint, tmp_path / "artifact", precision))
    assert code == 0
    [line] = (line for line in out.splitlines() if line.startswith("precision"))
    assert line.split()[1] == precision
    assert ("computed in fp32" in line) == shown


def test_info_prints_the_manifest_as_json(shell: Shell, int8_artifact: Path) -> None:
    code, out, _ = shell(cli.main, "info", int8_artifact, "--json")
    assert code == 0
    assert len(out.splitlines()) == 1
    assert json.loads(out) == json.loads((int8_artifact / "manifest.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("command", ["info", "verify"])
def test_info_and_verify_fail_without_an_artifact(shell: Shell, command: str, tmp_path: Path) -> None:
    assert str(tmp_path / "missing") in shell.fails(cli.main, command, tmp_path / "missing")


def test_verify_says_that_an_artifact_is_whole(shell: Shell, int8_artifact: Path) -> None:
    code, out, err = shell(cli.main, "verify", int8_artifact)
    assert (code, err) == (0, "")
    assert f"{int8_artifact} is whole: 3 files" in out
    assert read_manifest(int8_artifact).model_id in out


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "tokenizer.json", "manifest.json"])
def test_verify_names_the_broken_file(shell: Shell, artifact: Path, name: str) -> None:
    content = bytearray((artifact / name).read_bytes())
    content[content.find(b'"sha256:') + 20 if name == "manifest.json" else len(content) // 2] ^= 1
    (artifact / name).unlink()
    (artifact / name).write_bytes(content)
    assert str(artifact / name) in shell.fails(cli.main, "verify", artifact)


# memrerank-export


def test_export_prints_sizes_weight_errors_and_fidelity(shell: Shell, tiny_checkpoint: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"query": "a?", "document": "b", "label": 1}\n{"query": "a?", "document": "c", "label": 0}\n')
    output = tmp_path / "new" / "artifact"
    code, out, _ = shell(export_cli.main, tiny_checkpoint, output, "--pairs", pairs)
    assert code == 0
    sizes = {name: record.size for name, record in read_manifest(output).files.items()}
    assert all(f"{name:16} {size / 1e6:10.1f} MB" in out for name, size in sizes.items())
    assert "Qwen3ForCausalLM, int8" in out
    assert "weights: relative error 0.0" in out
    assert "fidelity: logits differ by at most" in out
    assert "(2 pairs, against transformers" in out
    assert sorted(path.name for path in output.parent.iterdir()) == ["artifact"]


def test_export_prints_its_report_as_json(tiny_checkpoint: Path, tmp_path: Path) -> None:
    pairs, output = tmp_path / "pairs.jsonl", tmp_path / "artifact"
    pairs.write_text('{"query": "a?", "document": {"text": "b", "time": "2024-01-01"}, "label": 1, "context": ["c"]}\n')
    done = run("memrerank_export.cli", tiny_checkpoint, output, "--precision", "fp32", "--pairs", pairs, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    manifest = read_manifest(output)
    assert (report["output"], report["precision"]) == (str(output), "fp32")
    assert report["model_id"] == manifest.model_id
    assert report["files"] == {name: asdict(record) for name, record in manifest.files.items()}
    assert report["fidelity"] == manifest.fidelity
    assert report["fidelity"]["pairs"] == 1
    assert report["fidelity"]["max_difference"] < 1e-3
    assert report["fidelity"]["kendall_tau"] is None


@pytest.mark.parametrize(
    "line", ["{", '{"query": "a?", "document": "b"}', '{"query": "a?", "document": "b", "label": 2}']
)
def test_export_names_the_line_that_is_no_pair(shell: Shell, tiny_checkpoint: Path, tmp_path: Path, line: str) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(f'{{"query": "a?", "document": "b", "label": 1}}\n{line}\n')
    reason = shell.fails(export_cli.main, tiny_checkpoint, tmp_path / "artifact", "--pairs", pairs)
    assert reason.startswith(f"Line 2 of {pairs} is not a pair")
    assert list(tmp_path.iterdir()) == [pairs]


def test_export_leaves_an_existing_output_alone(shell: Shell, tiny_checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "artifact"
    for make in (output.mkdir, lambda: output.write_text("mine")):
        make()
        reason = shell.fails(export_cli.main, tiny_checkpoint, output)
        assert reason.startswith(f"{output} exists already; give a new folder")
        assert list(tmp_path.rglob("*")) == [output]
        output.rmdir() if output.is_dir() else output.unlink()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_export_without_fidelity_measures_nothing_and_says_so(
    shell: Shell, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memrerank_export.export.measure_fidelity", Mock(side_effect=AssertionError))
    code, out, _ = shell(export_cli.main, small_checkpoint, tmp_path / "artifact", "--no-fidelity")
    assert code == 0
    assert "fidelity: null, because it was not measured" in out
    assert read_manifest(tmp_path / "artifact").fidelity == {"reference": None, "reason": "it was not measured"}
    assert Reranker.load(tmp_path / "artifact").score(QUERY, TEXTS[:1]).shape == (1,)


def test_the_instruction_and_the_template_reach_the_manifest_and_the_prompt(
    shell: Shell, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    template = {
        "head": [{"token": "<|im_start|>"}, "For {instruction}:"],
        "query": [" {query}\n"],
        "document": ["{document}", {"token": "<|im_end|>"}],
        "instruction": "a search",
        "rendering": asdict(
            Rendering("{instruction}", "[{time}] ", "{speaker}: ", "{turn}\\n", "%Y-%m-%d %H:%M", "%Y-%m-%d")
        ),
        "true_token": "true",
        "false_token": "false",
    }
    (tmp_path / "own.json").write_text(json.dumps(template), encoding="utf-8")
    options = ("--template", tmp_path / "own.json", "--instruction", "an agent", "--no-fidelity")
    code, out, _ = shell(export_cli.main, tiny_checkpoint, tmp_path / "artifact", *options)
    assert code == 0
    assert "template: own, with the instruction 'an agent'" in out
    manifest = read_manifest(tmp_path / "artifact")
    assert (manifest.source["template"], manifest.template.instruction) == ("own", "an agent")
    assert manifest.template.head == (IM_START, "For {instruction}:")
    tokenizer = Tokenizer.from_file(str(tiny_checkpoint / "tokenizer.json"))
    assert manifest.source["score_tokens"] == [tokenizer.token_to_id(word) for word in ("true", "false")]
    ids = Reranker.load(tmp_path / "artifact").encode("who?", "Ann")
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<|im_start|>For an agent: who?\nAnn<|im_end|>"


def test_export_takes_a_complete_output_as_it_is(shell: Shell, small_checkpoint: Path, tmp_path: Path) -> None:
    command = (export_cli.main, small_checkpoint, tmp_path / "artifact", "--no-fidelity")
    assert shell(*command)[0] == 0
    before = contents(tmp_path / "artifact")
    made = {path.name: path.stat().st_ino for path in (tmp_path / "artifact").glob("model.*")}
    code, out, err = shell(*command)
    assert (code, err) == (0, "")
    assert out.startswith(f"{tmp_path / 'artifact'}: Qwen3ForCausalLM, int8")
    assert contents(tmp_path / "artifact") == before
    assert {path.name: path.stat().st_ino for path in (tmp_path / "artifact").glob("model.*")} == made


@pytest.mark.parametrize("options", [("--precision", "int4"), ("--instruction", "another"), ("--template", "own.json")])
def test_export_refuses_an_output_that_was_made_with_other_options(
    shell: Shell, tiny_checkpoint: Path, artifact: Path, tmp_path: Path, options: tuple[str, str]
) -> None:
    before = contents(artifact)
    if options[0] == "--template":
        built_in = read_prompt(Path(str(files("memrerank_export") / "templates" / "qwen3-reranker.json")))
        (tmp_path / "own.json").write_text(json.dumps(dict(built_in.content) | {"query": ["{query}\n<Document>:"]}))
        options = ("--template", str(tmp_path / "own.json"))
    reason = shell.fails(export_cli.main, tiny_checkpoint, artifact, *options)
    assert reason.startswith(f"{artifact} exists already and holds an artifact of another checkpoint, or one made with")
    assert contents(artifact) == before


@pytest.mark.skipif(not Path("/proc/self/mem").is_file(), reason="needs a file that fails when it is read")
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "modules.json"])
def test_export_refuses_a_file_that_cannot_be_read(
    shell: Shell, small_checkpoint: Path, tmp_path: Path, name: str
) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for path in small_checkpoint.iterdir():
        (checkpoint / path.name).symlink_to(path)
    (checkpoint / name).unlink(missing_ok=True)
    (checkpoint / name).symlink_to("/proc/self/mem")  # reading its first bytes is an error, for every user
    reason = shell.fails(export_cli.main, checkpoint, tmp_path / "artifact")
    assert name in reason
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_an_artifact_that_was_never_run_is_refused_with_the_remedy(
    shell: Shell, artifact: Path, memories: Path
) -> None:
    write_manifest(replace(read_manifest(artifact), probe=None), artifact)
    reason = shell.fails(cli.main, "rerank", QUERY, "--memories", memories, "--artifact", artifact)
    assert "was never run where it was made" in reason
    assert "Run the same memrerank-export command again to complete it, or load it with probe=False" in reason
    with pytest.raises(ArtifactError, match="was never run where it was made"):
        Reranker.load(artifact)
    assert Reranker.load(artifact, probe=False).score(QUERY, TEXTS).shape == (len(TEXTS),)
    assert shell(cli.main, "verify", artifact)[0] == 0


@pytest.mark.parametrize("name", ["missing", "a/folder/missing", "../missing"])
def test_export_refuses_what_is_no_checkpoint_folder(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    reason = shell.fails(export_cli.main, name, "artifact")
    assert "give the folder of a checkpoint" in reason
    assert list(tmp_path.iterdir()) == []


def test_export_refuses_an_incomplete_checkpoint(shell: Shell, tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (checkpoint / name).symlink_to(tiny_checkpoint / name)
    reason = shell.fails(export_cli.main, checkpoint, tmp_path / "artifact")
    assert "lacks model.safetensors" in reason
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_export_refuses_an_output_below_a_file(shell: Shell, tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert str(tmp_path / "file") in shell.fails(export_cli.main, tiny_checkpoint, tmp_path / "file" / "artifact")


def test_export_can_be_interrupted(
    shell: Shell, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: object, stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export_cli.ProgressBars, "__call__", interrupted)
    reason = shell.fails(export_cli.main, tiny_checkpoint, tmp_path / "artifact")
    assert reason.startswith("interrupted; run the same command again")
    assert list(tmp_path.iterdir()) == []


def test_export_names_the_extra_that_is_missing(
    shell: Shell, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("memrerank_export.") and not name.endswith(".cli")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    reason = shell.fails(export_cli.main, tiny_checkpoint, tmp_path / "artifact")
    assert "safetensors is not installed" in reason
    assert "memrerank[export]" in reason


# Usage


@pytest.mark.parametrize(
    ("main", "arguments", "shown"),
    [
        (cli.main, ["--help"], ["rerank", "info", "verify"]),
        (
            cli.main,
            ["rerank", "--help"],
            ["QUERY", "--memories", "--artifact", "--top-k", "--threshold", "--context", "--time", "--json"],
        ),
        (cli.main, ["info", "--help"], ["DIR", "--json"]),
        (cli.main, ["verify", "--help"], ["DIR"]),
        (export_cli.main, ["--help"], EXPORT_OPTIONS),
    ],
)
def test_help_lists_commands_and_options(
    shell: Shell, main: Callable[[list[str]], int], arguments: list[str], shown: list[str]
) -> None:
    code, out, err = shell(main, *arguments)
    assert (code, err) == (0, "")
    assert [word for word in shown if word not in out] == []


@pytest.mark.parametrize(
    ("main", "arguments", "named"),
    [
        (cli.main, [], "COMMAND"),
        (cli.main, ["rank"], "rank"),
        (cli.main, ["rerank", QUERY], "--memories"),
        (cli.main, ["rerank", "--memories", "-"], "QUERY"),
        (cli.main, ["rerank", QUERY, "--memories", "-", "--top-k", "many"], "--top-k"),
        (cli.main, ["rerank", QUERY, "--memories", "-", "--device", "tpu"], "--device"),
        (cli.main, ["info", "--yaml"], "--yaml"),
        (export_cli.main, [], "CHECKPOINT"),
        (export_cli.main, ["checkpoint", "out", "--precision", "int3"], "--precision"),
        (export_cli.main, ["checkpoint", "out", "--no-fidelity", "--pairs", "pairs.jsonl"], "--no-fidelity"),
        (export_cli.main, ["checkpoint", "out", "--pairs", "pairs.jsonl", "--no-fidelity"], "--pairs"),
        (export_cli.main, ["checkpoint", "out", "--device", "tpu"], "--device"),
        (export_cli.main, ["checkpoint", "out", "--revision"], "--revision"),
    ],
)
def test_bad_usage_exits_with_2(
    shell: Shell, main: Callable[[list[str]], int], arguments: list[str], named: str
) -> None:
    code, out, err = shell(main, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: memrerank")
    assert named in err.splitlines()[-1]
