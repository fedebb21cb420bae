"""The script that measures on a GPU, tried on the CPU with a tiny shape."""

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memrerank_bench import cuda, measure_cuda, measure_torch

CELLS = ("2x128x48", "12x128x48")


def options(folder: Path, *more: str) -> list[str]:
    output, work = str(folder / "cuda.json"), str(folder / "work")
    return [
        *("--output", output, "--work", work, "--device", "cpu", "--prefixes", "128", "--lengths", "48"),
        *("--documents", "2,12", "--repeat", "2", *more),
    ]


def in_this_process(
    part: cuda.Part, options: argparse.Namespace, done: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    name, *names = part
    yield from measure_cuda.PARTS[name](cuda.described(options), done, *names)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measured")
    arguments = options(folder, "--shapes", "tiny,tiny-large", "--precisions", "fp16,int8")
    assert cuda.main(arguments, in_this_process) == 0
    return folder


def figures(folder: Path, part: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "cuda.json").read_text())["parts"][part]["figures"]
    return found


def test_every_part_is_done_and_saved(measured: Path) -> None:
    result = json.loads((measured / "cuda.json").read_text())
    expected = list(cuda.parts(["tiny", "tiny-large"], ["fp16", "int8"], "cpu"))
    assert list(result["parts"]) == [" ".join(part) for part in expected]
    assert all(part["done"] and "error" not in part for part in result["parts"].values())
    assert set(figures(measured, "speed tiny fp16")) == set(figures(measured, "transformers tiny")) == set(CELLS)


@pytest.mark.parametrize("shape", ["tiny", "tiny-large"])
def test_logits_are_those_of_transformers(shape: str, measured: Path) -> None:
    fp16, int8 = (figures(measured, f"correctness {shape} {precision}")["logits"] for precision in ("fp16", "int8"))
    assert fp16["finite"]
    assert int8["finite"]
    assert fp16["max_difference"] < 0.1 * fp16["standard_deviation"]
    assert fp16["max_difference"] < int8["max_difference"]
    assert (fp16["transformers_fp16_max_difference"] is None) == (shape == "tiny-large")
    assert fp16["probe_difference"] < 0.1 * fp16["probe_tolerance"]


def test_speeds_follow_from_the_times(measured: Path) -> None:
    machine = figures(measured, "machine")["machine"]
    for name in CELLS:
        found, documents = figures(measured, "speed tiny fp16")[name], int(name.split("x")[0])
        assert found["p50_ms"] <= found["p95_ms"]
        assert found["documents_per_second"] == pytest.approx(1e3 * documents / found["p50_ms"])
        assert found["tokens_per_second"] == pytest.approx(1e3 * (128 + 48 * documents) / found["p50_ms"])
    assert machine["matmul_tflops"] > 0


def test_the_same_command_measures_nothing_again(measured: Path) -> None:
    arguments = options(measured, "--shapes", "tiny,tiny-large", "--precisions", "fp16,int8")
    before = (measured / "cuda.json").read_text()

    def refuse(*_: object) -> Iterator[tuple[str, dict[str, Any]]]:
        raise AssertionError

    assert cuda.main(arguments, refuse) == 0
    assert (measured / "cuda.json").read_text() == before


def test_what_was_measured_before_a_failure_is_kept_and_gone_on_from(tmp_path: Path) -> None:
    asked: list[tuple[str, list[str]]] = []

    def fail_in_the_middle(
        part: cuda.Part, _: argparse.Namespace, done: Sequence[str]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        asked.append((" ".join(part), list(done)))
        if part[0] == "speed" and "b" not in done:
            yield "a", {"value": 1}
            if len(asked) < 6:
                raise RuntimeError("out of memory")
            yield "b", {"value": 2}

    arguments = options(tmp_path, "--shapes", "tiny", "--precisions", "fp16")
    assert cuda.main(arguments, fail_in_the_middle) == 1
    part = json.loads((tmp_path / "cuda.json").read_text())["parts"]["speed tiny fp16"]
    assert part == {"done": False, "figures": {"a": {"value": 1}}, "error": "out of memory"}
    assert asked[-1][0] == "variants tiny fp16"
    assert cuda.main(arguments, fail_in_the_middle) == 0
    assert asked[-1] == ("speed tiny fp16", ["a"])
    assert figures(tmp_path, "speed tiny fp16")["b"] == {"value": 2}


def test_no_part_begins_when_time_is_up(tmp_path: Path) -> None:
    assert cuda.main(options(tmp_path, "--minutes", "0"), in_this_process) == 1


def test_a_part_runs_in_a_process_of_its_own_and_its_last_words_are_kept(tmp_path: Path) -> None:
    chosen = cuda._parser().parse_args(options(tmp_path, "--tokenizer", str(tmp_path / "none")))
    chosen.seconds = 60
    [(name, found)] = cuda.in_process_of_its_own(("machine",), chosen, [])
    assert (name, found["device"]) == ("machine", "CPU")
    with pytest.raises(RuntimeError, match="No such file or directory"):
        list(cuda.in_process_of_its_own(("checkpoint", "tiny"), chosen, []))


def test_a_part_is_stopped_when_time_is_up(tmp_path: Path) -> None:
    chosen = cuda._parser().parse_args(options(tmp_path))
    chosen.seconds = 0.1
    with pytest.raises(RuntimeError, match="time ran out"):
        list(cuda.in_process_of_its_own(("machine",), chosen, []))


def test_kernels_are_summed_by_name_whoever_launched_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def event(name: str, device: str, microseconds: float) -> SimpleNamespace:
        spent = SimpleNamespace(elapsed_us=lambda: microseconds)
        return SimpleNamespace(name=name, device_type=f"DeviceType.{device}", time_range=spent)

    events = [event("gemm", "CUDA", 30), event("gemm", "CUDA", 20), event("norm", "CUDA", 5), event("run", "CPU", 90)]
    profiled = nullcontext(SimpleNamespace(events=lambda: events))
    monkeypatch.setattr(torch.profiler, "profile", lambda **_: profiled)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    found = measure_torch.kernels(lambda: None)
    assert found["busy_ms"] == pytest.approx(0.055)
    assert found["kernels"] == [
        {"name": "gemm", "ms": 0.05, "launches": 2},
        {"name": "norm", "ms": 0.005, "launches": 1},
    ]


def test_goals_are_summarized_from_the_figures() -> None:
    call = {"p50_ms": 10.0, "p95_ms": 12.0, "documents_per_second": 1e4, "tflops": 100.0}
    result = {
        "parts": {
            "machine": {"figures": {"machine": {"matmul_tflops": 800.0}}},
            "speed 0.6B fp16": {
                "figures": {cuda.HEADLINE: call, cuda.FULL: call | {"tflops": 400.0}, "memory": {"largest_bytes": 2e9}}
            },
            "transformers 0.6B": {"figures": {cuda.HEADLINE: {"documents_per_second": 2500.0}}},
            "speed 0.6B int8": {"figures": {}},
        }
    }
    assert cuda.summarize(result, "0.6B", "fp16") == {
        "p50_ms": 10.0, "p95_ms": 12.0, "documents_per_second": 1e4, "times_transformers_fp16": 4.0,
        "share_of_matmul_rate": 0.5, "largest_memory_mb": 2000.0,
    }  # fmt: skip
    assert cuda.table(result).splitlines()[2:] == [
        "| 0.6B | fp16 | 10 | 12 | 1e+04 | 4 | 0.5 | 2e+03 |",
        "| 0.6B | int8 |  |  |  |  |  |  |",
    ]


@pytest.fixture
def as_on_a_gpu(measured: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options of a measurement on a GPU, for which the CPU stands."""
    free = iter([9_000_000_000, *range(8_000_000_000, 0, -1_000_000_000)])
    on_cpu = cuda.described(cuda._parser().parse_args(options(measured)))
    load = measure_cuda._load
    monkeypatch.setattr(measure_cuda, "_load", lambda _, *names: load(on_cpu, *names))
    monkeypatch.setattr(measure_cuda, "Driver", lambda: SimpleNamespace(free_memory=lambda: next(free)))
    monkeypatch.setattr(measure_torch, "kernels", lambda call: {"documents": len(call.args[1])})
    return on_cpu | {"device": "cuda"}


def test_on_a_gpu_memory_and_kernels_are_measured_too(as_on_a_gpu: dict[str, Any]) -> None:
    found = dict(measure_cuda.speed(as_on_a_gpu, [CELLS[0]], "tiny", "fp16"))
    assert list(found) == [CELLS[1], "memory", f"kernels {cuda.HEADLINE}", f"kernels {cuda.FULL}"]
    assert found["memory"] == {"loaded_bytes": 1_000_000_000, "largest_bytes": 3_000_000_000}
    assert [found[f"kernels {name}"]["documents"] for name in (cuda.HEADLINE, cuda.FULL)] == [100, 500]


def test_on_a_gpu_other_choices_are_measured(as_on_a_gpu: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from memrerank import cuda as runtime
    from memrerank import padded_decoder

    monkeypatch.setattr(padded_decoder, "MOST_TOKENS", padded_decoder.MOST_TOKENS)
    monkeypatch.setattr(runtime, "CONFIG", dict(runtime.CONFIG))
    monkeypatch.setattr(
        measure_cuda, "_latency", lambda *_: {"tokens": padded_decoder.MOST_TOKENS, "config": dict(runtime.CONFIG)}
    )
    found = dict(measure_cuda.variants(as_on_a_gpu, ["4096 tokens a run"], "tiny", "int8"))
    assert [figures["tokens"] for figures in found.values()] == [8192, 16384, 32768, 16384, 16384]
    fused = [figures["config"]["ep.cuda.fpa_intb_gemm"] for figures in found.values()]
    assert (list(found)[3:], fused) == ([f"unfused {cuda.HEADLINE}", f"unfused {cuda.FULL}"], ["1", "1", "1", "0", "0"])
