import json
from pathlib import Path

from memrerank_bench.throughput import linear_macs, table

ROOT = Path(__file__).parent.parent


def test_the_readme_shows_the_committed_figures() -> None:
    result = json.loads((ROOT / "bench" / "results" / "throughput.json").read_text())
    assert table(result) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_linear_layers_are_counted_as_transformers_builds_them(tiny_checkpoint: Path) -> None:
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(tiny_checkpoint)
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    assert linear_macs(config) == sum(linear.weight.numel() for linear in linears)
