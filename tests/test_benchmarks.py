import json
from pathlib import Path

from memrerank_bench import encoders, precisions
from memrerank_bench.throughput import linear_macs, table

ROOT = Path(__file__).parent.parent


def test_the_readme_shows_the_committed_figures() -> None:
    result = json.loads((ROOT / "bench" / "results" / "throughput.json").read_text())
    assert table(result) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_documentation_shows_the_committed_figures_of_encoders() -> None:
    result = json.loads((ROOT / "bench" / "results" / "encoders.json").read_text())
    shown = (ROOT / "docs" / "encoders.md").read_text(encoding="utf-8")
    assert all(part in shown for part in (encoders.table(result), encoders.layers(result), encoders.budgets(result)))
    speed = f"int8 scores {result['speed_against_torch']['memrerank-int8']:.1f} times as many pairs"
    assert speed in (ROOT / "README.md").read_text(encoding="utf-8")


def test_int8_encoders_are_as_fast_as_promised() -> None:
    result = json.loads((ROOT / "bench" / "results" / "encoders.json").read_text())
    speed, quality = result["speed_against_torch"], result["quality"]
    others = ("optimum-int8", "optimum-int8-per-channel")
    assert speed["memrerank-int8"] >= 2.5
    assert speed["memrerank-int8"] >= max(speed[name] for name in others)
    assert quality["memrerank-int8"]["batch_change"] == 0 < min(quality[name]["batch_change"] for name in others)


def test_linear_layers_are_counted_as_transformers_builds_them(tiny_checkpoint: Path) -> None:
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(tiny_checkpoint)
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    assert linear_macs(config) == sum(linear.weight.numel() for linear in linears)


def test_the_readme_shows_the_committed_figures_of_each_precision() -> None:
    result = json.loads((ROOT / "bench" / "results" / "precisions.json").read_text())
    assert precisions.table(result) in (ROOT / "README.md").read_text(encoding="utf-8")
