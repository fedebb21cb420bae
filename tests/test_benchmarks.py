import json
import shutil
from pathlib import Path

from memrerank_bench import docs
from memrerank_bench.throughput import linear_macs

ROOT = Path(__file__).parent.parent


def test_the_documents_show_the_committed_figures() -> None:
    found = docs.documents(ROOT)
    assert [path.name for path in found] == ["README.md", "benchmarks.md", "encoders.md"]
    for path in found:
        text = path.read_text(encoding="utf-8")
        assert docs.update(text, ROOT / "bench" / "results") == text, "run: python -m memrerank_bench.docs"


def test_every_result_is_shown() -> None:
    shown = {
        name.partition("/")[0] for path in docs.documents(ROOT) for _, name, *_ in docs.BLOCK.findall(path.read_text())
    }
    assert {path.stem for path in (ROOT / "bench" / "results").glob("*.json")} == shown


def test_a_figure_that_differs_from_the_results_is_found(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "bench" / "results", tmp_path / "bench" / "results")
    (tmp_path / "docs").mkdir()
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    assert docs.main(["--root", str(tmp_path), "--check"]) == 0
    result = json.loads((tmp_path / "bench" / "results" / "throughput.json").read_text())
    result["summary"]["documents_per_second"] += 1
    (tmp_path / "bench" / "results" / "throughput.json").write_text(json.dumps(result))
    assert docs.main(["--root", str(tmp_path), "--check"]) == 1
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == text
    assert docs.main(["--root", str(tmp_path)]) == 0
    assert (tmp_path / "README.md").read_text(encoding="utf-8") != text
    assert docs.main(["--root", str(tmp_path), "--check"]) == 0


def test_the_readme_speaks_of_encoders_as_measured() -> None:
    result = json.loads((ROOT / "bench" / "results" / "encoders.json").read_text())
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
