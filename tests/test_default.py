"""The embedded model: whole, small, made from the checkpoint that is kept, and able to find plain answers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from transformers import AutoTokenizer, BertForSequenceClassification

from conftest import exported
from memrerank import Memory, Reranker, cli
from memrerank.reranker import artifact_folder
from memrerank.template import render_memory

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "recipes" / "nano" / "checkpoint"
MEMORIES = [Memory(**json.loads(line)) for line in (ROOT / "scripts/demo.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def reranker() -> Reranker:
    return Reranker.load()


def test_it_is_the_default_and_has_a_name(reranker: Reranker) -> None:
    assert reranker.path == artifact_folder("default") == Path(cli.__file__).parent / "default"
    assert Reranker.load("default").manifest == reranker.manifest
    assert (reranker.manifest.family, reranker.manifest.precision) == ("encoder", "int8")


def test_it_is_small_and_calibrated(reranker: Reranker) -> None:
    assert sum(path.stat().st_size for path in reranker.path.iterdir()) < 25e6
    assert {path.name for path in reranker.path.iterdir()} == {*reranker.manifest.files, "manifest.json"}
    calibration = reranker.manifest.calibration
    assert calibration is not None
    assert calibration.metrics["calibrated"]["smooth_calibration_error"] <= 0.03


def test_it_is_what_the_kept_checkpoint_gives(reranker: Reranker, tmp_path: Path) -> None:
    again = Reranker.load(exported(CHECKPOINT, tmp_path / "again", "int8"))
    assert again.manifest.model_id == reranker.manifest.model_id


def test_it_orders_as_the_checkpoint_does_in_transformers(reranker: Reranker) -> None:
    model = BertForSequenceClassification.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    texts = [render_memory(memory, reranker.manifest.template.rendering) for memory in MEMORIES]
    for question in ("When did Nora start her work?", "Why did Tomas miss the concert?"):
        encoded = tokenizer([question] * len(texts), texts, padding=True, return_tensors="pt")
        with torch.inference_mode():
            expected = model(**encoded).logits[:, 0].numpy()
        found = reranker.score(question, MEMORIES, raw=True)
        assert np.abs(found - expected).mean() < 0.25
        assert np.abs(found - expected).max() < 1.5
        assert kendalltau(found, expected).statistic > 0.8
        assert found.argmax() == expected.argmax()


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("When did Nora start at the observatory?", "Today was my first day at the observatory"),
        ("Why did Tomas miss the concert?", "The last ferry was cancelled"),
        ("How far did Tomas swim?", "I swam across the bay"),
        ("Which language is Nora learning?", "I am learning Portuguese"),
        ("What is Nora's dog called?", "Her name is Vega"),
    ],
)
def test_it_finds_plain_answers(reranker: Reranker, question: str, answer: str) -> None:
    best = reranker.rerank(question, MEMORIES)[0]
    assert answer in best.document.text
    assert best.score > 0.5


def test_what_answers_nothing_is_improbable(reranker: Reranker) -> None:
    assert reranker.score("What is the capital of Mongolia?", MEMORIES).max() < 0.5


@pytest.mark.parametrize("command", [["info"], ["verify"], ["verify", "default"]])
def test_commands_name_it(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    assert cli.main(command) == 0
    assert str(artifact_folder("default")) in capsys.readouterr().out


def test_rerank_uses_it(capsys: pytest.CaptureFixture[str]) -> None:
    memories = str(ROOT / "scripts" / "demo.jsonl")
    assert cli.main(["rerank", "How far did Tomas swim?", "--memories", memories, "--top-k", "1"]) == 0
    assert "I swam across the bay" in capsys.readouterr().out


def test_the_demo_needs_the_runtime_alone() -> None:
    """In a process that refuses to import anything but the runtime's three dependencies and the standard library."""
    refused = ("torch", "transformers", "onnx", "scipy", "sklearn", "memrerank_export")
    guard = (
        f"import runpy, sys\nsys.modules.update(dict.fromkeys({refused}))\n"
        f"runpy.run_path({str(ROOT / 'scripts' / 'demo.py')!r}, run_name='__main__')"
    )
    environment = os.environ | {"PYTHONIOENCODING": "utf-8", "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, "-c", guard], capture_output=True, encoding="utf-8", env=environment, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("%  2024-") == 18
    assert "I swam across the bay" in done.stdout
