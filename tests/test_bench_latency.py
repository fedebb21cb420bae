import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from encoder_checkpoints import make_encoder
from memrerank import MemrerankError, Reranker
from memrerank_bench import gpu, latency, output, profiling, worker
from memrerank_bench.cli import main
from memrerank_bench.grid import Grid, Point
from memrerank_bench.latency_summary import summarize
from memrerank_bench.workload import make_workload

SMALL = ["--documents", "1,3", "--document-tokens", "8,5000", "--query-tokens", "4,8", "--context-tokens", "0,6"]
QUICK = ["--rounds", "2", "--seconds", "0.01", "--threads", "1,2"]
EFFORT = latency.Effort(rounds=2, seconds=0.01, calls=2, limit=30, spread=0.5)
GRID = Grid((1, 3), (8,), (4,), (0,), (1,))


@pytest.fixture(scope="module")
def measured(int8_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The JSON and the page of a run on a tiny artifact."""
    folder = tmp_path_factory.mktemp("latency")
    result, page = folder / "l.json", folder / "l.html"
    assert main(["latency", str(int8_artifact), *SMALL, *QUICK, "--output", str(result), "--report", str(page)]) == 0
    return json.loads(result.read_text()), page.read_text()


def test_every_point_of_the_grid_is_measured_or_left_out(measured: tuple[dict[str, Any], str]) -> None:
    (found,) = measured[0]["artifacts"].values()
    points = {(p["threads"], p["documents"], p["query_tokens"], p["context_tokens"]): p for p in found["points"]}
    assert set(points) == {(1, 1, 4, 0), (1, 3, 4, 0)}
    left_out = {(p["threads"], p["documents"], p["document_tokens"]) for p in found["left_out"]}
    assert {(1, 1, 5000), (1, 3, 5000), (2, 3, 5000)} <= left_out
    assert measured[0]["partial"] is None


def test_figures_of_a_point_belong_together(measured: tuple[dict[str, Any], str]) -> None:
    (found,) = measured[0]["artifacts"].values()
    for point in found["points"]:
        assert 0 < point["fastest"] <= point["p50"] <= point["slowest"]
        assert point["documents_per_second"] == pytest.approx(point["documents"] / point["p50"])
        assert point["tokens_per_second"] == pytest.approx(point["tokens"] / point["p50"])
        assert len(point["p50_by_round"]) == 2
        assert (point["p95"] is None) == (point["calls"] < 20)
    for cold in found["cold_start"]:
        assert 0 < cold["import"] + cold["load"] + cold["first_score"] < cold["from_process_start"] <= cold["slowest"]
    memory = found["memory"]
    assert 10e6 < memory["loaded"] <= memory["peak"]
    assert all(each["gop_per_second"] > 0 and len(each["by_round"]) == 2 for each in found["matmul"])


def test_the_page_is_one_file(measured: tuple[dict[str, Any], str]) -> None:
    page = measured[1]
    assert page.startswith("<!doctype html>")
    assert page.count("data:image/png;base64,") >= 2
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)
    assert measured[0]["machine"]["processor"].split(",")[0] in page


def test_two_artifacts_take_turns(
    int8_artifact: Path, fp32_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["--documents", "2", "--document-tokens", "8", "--query-tokens", "4", "--context-tokens", "0"]
    quick = ["--rounds", "2", "--seconds", "0.01", "--threads", "1"]
    page = tmp_path / "c.html"
    assert (
        main(["compare", str(int8_artifact), str(fp32_artifact), *grid, *quick, "--json", "--report", str(page)]) == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert len(result["artifacts"]) == 2
    (ratio,) = result["ratios"]
    first, second = (found["points"][0]["p50_by_round"] for found in result["artifacts"].values())
    assert ratio["median"] == pytest.approx(np.median([second[i] / first[i] for i in range(2)]))
    (breakdown,) = {found["breakdown"]["linear_operations"] for found in result["artifacts"].values()}
    assert breakdown > 0  # the same model computes the same
    assert "Compared" in page.read_text()


def test_a_workload_has_the_tokens_it_says(int8_artifact: Path, tmp_path: Path) -> None:
    reranker = Reranker.load(int8_artifact, threads=1)
    point = Point(documents=7, document_tokens=12, query_tokens=9, context_tokens=20)
    work = make_workload(reranker, point, 0.5)
    assert work is not None
    prompts = [reranker.encode(work.query, document, context=work.context) for document in work.documents]
    assert work.tokens == sum(len(prompt) - work.shared for prompt in prompts) + work.shared
    assert all(prompt[: work.shared] == prompts[0][: work.shared] for prompt in prompts)
    assert len({len(prompt) for prompt in prompts}) > 1
    even = make_workload(reranker, point, 0.0)
    assert even is not None
    assert len({len(reranker.encode(even.query, document)) for document in even.documents}) == 1


def test_linear_operations_are_those_of_the_checkpoint(int8_artifact: Path, tiny_checkpoint: Path) -> None:
    """All layers but the last run on every token; the last one makes only keys and values for all of them."""
    point = Point(documents=1, document_tokens=10, query_tokens=5, context_tokens=0)
    found = profiling.profile(str(int8_artifact), "cpu", 1, point, 0.0)
    assert found is not None
    c = json.loads((tiny_checkpoint / "config.json").read_text())
    queries, keys = (c[name] * c["head_dim"] for name in ("num_attention_heads", "num_key_value_heads"))
    layer = c["hidden_size"] * (2 * queries + 2 * keys + 3 * c["intermediate_size"])
    computed = found["linear_operations"] / 2 / layer / (c["num_hidden_layers"] - 1)
    assert 0.2 * found["tokens"] < computed < 2 * found["tokens"]
    assert {each["operator"] for each in found["operators"]} >= {"MatMulIntegerToFloat", "Attention"}
    assert sum(each["seconds"] for each in found["operators"]) <= found["seconds"]


def test_an_interruption_keeps_what_is_measured(int8_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(latency, "_profile", interrupted)
    found = latency.measure_latency([str(int8_artifact)], GRID, EFFORT, "cpu")
    assert found["partial"] == "interrupted"
    (figures,) = found["artifacts"].values()
    assert len(figures["points"]) == 2
    assert figures["breakdown"] is None


def test_an_interruption_before_the_first_call_goes_on(int8_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(latency, "in_fresh_process", interrupted)
    with pytest.raises(KeyboardInterrupt):
        latency.measure_latency([str(int8_artifact)], GRID, EFFORT, "cpu")


@pytest.mark.skipif(os.name != "posix", reason="signals as of POSIX")
def test_ctrl_c_writes_a_partial_result_and_leaves_no_process(int8_artifact: Path, tmp_path: Path) -> None:
    result = tmp_path / "l.json"
    grid = ["--documents", "1,2", "--document-tokens", "8", "--query-tokens", "4", "--context-tokens", "0"]
    command = [sys.executable, "-m", "memrerank_bench.cli", "latency", str(int8_artifact), *grid, "--threads", "1"]
    options = ["--rounds", "10000", "--seconds", "0.01", "--output", str(result)]
    process = subprocess.Popen(
        [*command, *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in the background ignores it
    )
    children = psutil.Process(process.pid).children
    _wait_for(lambda: any("memrerank_bench.profiling" in child for child in _commands(children())))
    _wait_for(lambda: any("memrerank_bench.worker" in child for child in _commands(children())))
    running = children()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "marked partial" in errors
    assert "Traceback" not in errors
    assert json.loads(result.read_text())["partial"] == "interrupted"
    assert not any(child.is_running() for child in running)


def _wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited for a minute")


def _commands(processes: list[psutil.Process]) -> Iterator[str]:
    for process in processes:
        with contextlib.suppress(psutil.Error):  # it may have ended by now
            yield " ".join(process.cmdline())


def test_a_call_that_would_take_too_long_is_left_out(int8_artifact: Path) -> None:
    hurried = latency.Effort(rounds=1, seconds=0.01, calls=1, limit=1e-6, spread=0.0)
    (figures,) = latency.measure_latency([str(int8_artifact)], GRID, hurried, "cpu")["artifacts"].values()
    assert [point["documents"] for point in figures["points"]] == [1]
    assert "--limit" in figures["left_out"][0]["reason"]


def test_where_nothing_can_be_measured_the_result_says_so(
    int8_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    too_long = ["--documents", "1", "--document-tokens", "50000", "--query-tokens", "4", "--context-tokens", "0"]
    written = ["--output", str(tmp_path / "l.json"), "--report", str(tmp_path / "l.html")]
    assert main(["latency", str(int8_artifact), *too_long, *QUICK, *written]) == 0
    (found,) = json.loads((tmp_path / "l.json").read_text())["artifacts"].values()
    assert found["points"] == []
    for shown in (capsys.readouterr().out, (tmp_path / "l.html").read_text()):
        assert "No call was measured." in shown
        assert found["left_out"][0]["reason"] in shown


def test_an_encoder_is_measured(tmp_path: Path) -> None:
    from memrerank_export.cli import main as export

    checkpoint = make_encoder(tmp_path / "checkpoint", "Bert")
    artifact = tmp_path / "artifact"
    assert export([str(checkpoint), str(artifact), "--no-fidelity"]) == 0
    (figures,) = latency.measure_latency([str(artifact)], GRID, EFFORT, "cpu")["artifacts"].values()
    assert [point["shared_tokens"] for point in figures["points"]] == [0, 0]
    assert figures["breakdown"]["linear_operations"] > 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["latency", "{nothing}"], "nothing"),
        (["latency", "{artifact}", "--output", "{nothing}/x.json"], "cannot be written"),
        (["latency", "{artifact}", "--report", "{folder}"], "is a folder"),
        (["latency", "{artifact}", "--device", "cuda", "--rounds", "1"], "cuda"),
        (["compare", "{artifact}", "{artifact}"], "same artifact"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], reason: str, int8_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"artifact": int8_artifact, "nothing": tmp_path / "nothing", "folder": tmp_path}
    assert main([argument.format(**places) for argument in arguments]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert reason in shown.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [["--documents", "0"], ["--spread", "2"], ["--limit", "nan"], ["--threads", "a,b"]])
def test_bad_usage_ends_with_2(option: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["latency", "artifact", *option])
    assert ended.value.code == 2


def test_percentiles_are_those_of_numpy_and_a_wide_spread_is_said() -> None:
    draw = np.random.default_rng(0)
    seconds = [list(draw.lognormal(0, 1, 60)) for _ in range(2)]
    point = asdict(Point(2, 8, 4, 0))
    visit = {
        "event": "visit",
        "point": point,
        "tokens": 30,
        "shared_tokens": 10,
        "resident_bytes": 5,
        "gpu": gpu.NOTHING,
    }
    found = summarize({1: [{**visit, "seconds": each} for each in seconds]}, {}, None, Point(2, 8, 4, 0), 1)["points"][
        0
    ]
    everything = np.concatenate(seconds)
    assert found["p50"] == pytest.approx(np.percentile(everything, 50))
    assert found["p95"] == pytest.approx(np.percentile(everything, 95))
    assert found["p99"] == pytest.approx(np.percentile(everything, 99))
    assert found["wide_spread"]


def test_a_jetson_board_tells_power_and_clock(tmp_path: Path) -> None:
    sensor, domain = tmp_path / "hwmon" / "hwmon3", tmp_path / "devfreq" / "17000000.gpu"
    sensor.mkdir(parents=True)
    domain.mkdir(parents=True)
    for name, text in {"in1_label": "VDD_IN", "in1_input": "5000", "curr1_input": "1500"}.items():
        (sensor / name).write_text(text + "\n")
    (domain / "cur_freq").write_text("918000000\n")
    found = gpu.read_jetson(tmp_path / "hwmon", tmp_path / "devfreq")
    assert found == {"memory_bytes": None, "power_watts": 7.5, "clock_mhz": 918}
    assert gpu.read_jetson(tmp_path / "none", tmp_path / "none") == gpu.NOTHING


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.json"
    output.write_text(path, "old")

    def full(self: Path, text: str, encoding: str) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        output.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_measuring_process_that_dies_is_an_error() -> None:
    from memrerank_bench.child import in_fresh_process

    with pytest.raises(MemrerankError, match="exit code 1"):
        in_fresh_process("matmul", "int8", "no number")


def test_a_gpu_that_does_not_tell_its_power_has_none() -> None:
    class Nvml:
        NVML_CLOCK_SM = 1
        NVMLError = RuntimeError

        def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:  # noqa: N802
            return SimpleNamespace(used=7e9)

        def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
            raise RuntimeError("not supported")

        def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:  # noqa: N802
            return 1980

    found = gpu._read_nvml(Nvml(), "handle")
    assert found == {"memory_bytes": 7e9, "power_watts": None, "clock_mhz": 1980.0}


def test_a_call_is_foreseen_from_calls_like_it() -> None:
    measured = [(Point(50, 64, 16, 0), 0.001), (Point(1, 4000, 16, 0), 0.006)]
    assert worker._seconds_per_token(measured, Point(10, 4000, 16, 0)) == 0.006
    assert worker._seconds_per_token(measured, Point(10, 512, 16, 0)) == 0.001
    assert worker._seconds_per_token(measured, Point(10, 64, 16, 512)) == 0.001
    assert worker._seconds_per_token(measured, Point(2000, 8, 16, 0)) == 0
