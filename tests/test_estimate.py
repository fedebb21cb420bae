"""What `memrerank-export --dry-run` says is what an export then does."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any, get_args

import pytest
from safetensors import safe_open

from checkpoints import SMALL_VOCABULARY, Architecture, make_checkpoint
from conftest import source_of
from memrerank.manifest import LayerRecord, Manifest
from memrerank_bench.random_checkpoint import CONFIG_06B, CONFIG_4B
from memrerank_export import cli
from memrerank_export.config import PRECISIONS
from memrerank_export.estimate import Estimate, estimate
from memrerank_export.export import export

HIDDEN = 64
TEMPLATES = {"Qwen3": "qwen3-reranker", "Qwen2": "mxbai-rerank-v2"}


@pytest.fixture(scope="module", params=get_args(Architecture))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint of every architecture, in several files; not to be written to."""
    folder = tmp_path_factory.mktemp("estimate") / request.param
    return make_checkpoint(
        folder,
        architecture=request.param,
        layers=2,
        hidden=HIDDEN,
        intermediate=80,  # not a whole number of int4 blocks
        vocab=SMALL_VOCABULARY,
        shard_size="100KB",
    )


def described(checkpoint: Path, folder: Path) -> Path:
    """The checkpoint without its weights."""
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(checkpoint / name, folder / name)
    return folder


def exported(checkpoint: Path, output: Path, precision: str) -> Manifest:
    return export(source_of(checkpoint), output, precision, None, lambda stage, done, total: None)


def by_layer(plan: dict[str, LayerRecord]) -> dict[tuple[str, tuple[int, ...], str], int]:
    """How many matrices differ in the number of their layer only."""
    counts: dict[tuple[str, tuple[int, ...], str], int] = {}
    for name, record in plan.items():
        key = (re.sub(r"layers\.\d+", "layers.*", name), record.shape, record.form)
        counts[key] = counts.get(key, 0) + 1
    return counts


def stored_numbers(checkpoint: Path) -> Iterator[int]:
    """How many numbers each tensor of the safetensors files has."""
    for path in checkpoint.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as shard:
            yield from (prod(shard.get_slice(name).get_shape()) for name in shard.keys())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_estimate_is_what_an_export_makes(checkpoint: Path, tmp_path: Path, precision: str) -> None:
    estimated = estimate(source_of(described(checkpoint, tmp_path / "described")), precision)
    manifest = exported(checkpoint, tmp_path / "artifact", precision)
    weights = tmp_path / "artifact" / "model.onnx.data"
    assert estimated.size == weights.stat().st_size == manifest.files[weights.name].size
    assert {(layers.name, layers.shape, layers.form): layers.count for layers in estimated.layers} == by_layer(
        dict(manifest.plan)
    )
    assert (estimated.architecture, estimated.precision) == (checkpoint.name, precision)
    assert estimated.template == manifest.source["template"] == TEMPLATES[checkpoint.name[:5]]


def test_parameters_are_those_in_the_safetensors_files(checkpoint: Path) -> None:
    score = 0 if checkpoint.name.endswith("ForSequenceClassification") else HIDDEN
    assert estimate(source_of(checkpoint), "int8").parameters == sum(stored_numbers(checkpoint)) + score


def test_a_head_of_its_own_counts_as_the_score_vector_that_is_kept_of_it(tmp_path: Path) -> None:
    options: dict[str, Any] = {"layers": 1, "vocab": SMALL_VOCABULARY, "tied": False}
    folder = make_checkpoint(tmp_path / "untied", **options)
    head = SMALL_VOCABULARY * HIDDEN
    assert estimate(source_of(folder), "int8").parameters == sum(stored_numbers(folder)) - head + HIDDEN


# The command


def dry_run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command prints; it must succeed and say nothing else."""
    assert cli.main([*map(str, arguments), "--dry-run"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_dry_run_prints_the_plan_and_writes_nothing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str
) -> None:
    folder = described(checkpoint, tmp_path / "described")
    before = sorted(tmp_path.rglob("*"))
    estimated = estimate(source_of(folder), precision)
    printed = dry_run(capsys, folder, tmp_path / "new" / "artifact", "--precision", precision)
    rows = [line.split() for line in printed.splitlines() if line.startswith("  ")]
    assert rows == [
        [each.name, str(each.count), "x", str(each.shape[0]), "x", str(each.shape[1]), each.form]
        for each in estimated.layers
    ]
    assert f"{precision} artifact: {estimated.size / 1e6:,.0f} MB" in printed
    assert printed.splitlines()[-1] == "Nothing was written (--dry-run)."
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_prints_the_estimate_as_json(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = dry_run(capsys, described(checkpoint, tmp_path / "described"), tmp_path / "artifact", "--json")
    assert printed.count("\n") == 1
    found = json.loads(printed)
    assert sorted(found) == [
        "architecture",
        "export_memory",
        "layers",
        "load_memory",
        "parameters",
        "precision",
        "size",
        "template",
    ]
    assert {frozenset(layers) for layers in found["layers"]} == {frozenset(("name", "count", "shape", "form"))}
    assert found == json.loads(json.dumps(asdict(estimate(source_of(checkpoint), "int8"))))
    assert [path.name for path in tmp_path.iterdir()] == ["described"]


# The published shapes


@pytest.fixture(scope="module", params=["0.6B", "4B"])
def published(request: pytest.FixtureRequest, tokenizer_json: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """config.json and tokenizer.json of a published model."""
    folder = tmp_path_factory.mktemp("published") / request.param
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG_06B if request.param == "0.6B" else CONFIG_4B))
    shutil.copyfile(tokenizer_json, folder / "tokenizer.json")
    return folder


def test_the_published_models_have_the_sizes_that_are_promised(published: Path) -> None:
    source = source_of(published)
    estimates: dict[str, Estimate] = {precision: estimate(source, precision) for precision in PRECISIONS}
    megabytes = {precision: found.size / 1e6 for precision, found in estimates.items()}
    parameters = estimates["fp32"].parameters
    assert megabytes["fp32"] == pytest.approx(4e-6 * parameters, rel=1e-3)
    assert megabytes["fp16"] == pytest.approx(2e-6 * parameters, rel=1e-3)
    if published.name == "0.6B":
        assert round(parameters / 1e6) == 596
        assert megabytes["int8"] <= 620
        assert megabytes["int4"] <= 420
    else:
        assert round(parameters / 1e6) == 4022
        assert megabytes["int4"] <= 2500
