"""memrerank-calibrate and what a calibrated artifact does, on a tiny checkpoint of random weights."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memrerank import ArtifactError, CalibrationError, InputError, Reranker, cli
from memrerank.calibration import Calibration
from memrerank.manifest import read_manifest
from memrerank_calibration import cli as calibrate_cli
from memrerank_calibration import fit, metrics
from memrerank_calibration import sample as sample_module
from memrerank_calibration.pairs import read_pairs
from memrerank_calibration.sample import score_pairs
from memrerank_export import cli as export_cli

Shell = Callable[..., tuple[int, str, str]]
Change = Callable[[dict[str, Any]], object]

QUERIES = [f"What did {name} do in {place}?" for name in ("Ann", "Bo", "Cy", "Di") for place in ("May", "Rome", "town")]
DOCUMENTS = [
    f"{name} {verb} {thing}." for name in ("Ann", "Bo") for verb in ("saw", "sold") for thing in ("it", "a cat")
]


@pytest.fixture(scope="module", autouse=True)
def few_draws() -> Iterator[None]:
    """Intervals from fewer draws than in use, which is quicker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "RESAMPLES", 20)
        patch.setattr(fit, "REFITS", 40)
        yield


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    def call(main: Callable[..., int], *arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        found = capsys.readouterr()
        return code, found.out, found.err

    return call


@pytest.fixture(scope="module")
def pairs(int8_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs whose labels follow the artifact's own logits, with exceptions."""
    reranker = Reranker.load(int8_artifact)
    rows = []
    for query in QUERIES:
        for document, logit in zip(DOCUMENTS, reranker.score(query, DOCUMENTS, raw=True).tolist(), strict=True):
            rows.append({"query": query, "document": document, "label": logit})
    middle = float(np.median([row["label"] for row in rows]))
    for number, row in enumerate(rows):
        row["label"] = int((row["label"] > middle) != (number % 5 == 0))
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def calibrated(int8_artifact: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated copy of the int8 artifact; not to be written to."""
    output = tmp_path_factory.mktemp("calibrated") / "artifact"
    calibrate_cli.run_calibration(int8_artifact, pairs, output)
    return output


@pytest.fixture(scope="module")
def calibration(calibrated: Path) -> Calibration:
    found = read_manifest(calibrated).calibration
    assert found is not None
    return found


@pytest.fixture(scope="module")
def reranker(calibrated: Path) -> Reranker:
    return Reranker.load(calibrated)


# The command


def test_only_the_manifest_changes(shell: Shell, artifact: Path, pairs: Path) -> None:
    before = {path.name: path.read_bytes() for path in artifact.iterdir()}
    old = asdict(read_manifest(artifact))
    code, out, err = shell(calibrate_cli.main, artifact, pairs)
    assert (code, "score pairs" in err) == (0, False)
    after = {path.name: path.read_bytes() for path in artifact.iterdir()}
    assert after.pop("manifest.json") != before.pop("manifest.json")
    assert after == before
    new = asdict(read_manifest(artifact))
    assert new.pop("calibration")["model_id"] == new["model_id"]
    del old["calibration"]
    assert new == old
    share = np.mean([pair.label for pair in read_pairs(pairs)])
    assert f"96 pairs of 12 queries, {share:.1%} of them relevant" in out
    assert "smooth calibration error" in out
    assert re.search(r"precision>=0.99? .*(\d\.\d+|do not support)", out)


def test_a_copy_is_calibrated_and_the_artifact_stays(
    int8_artifact: Path, calibrated: Path, calibration: Calibration, pairs: Path
) -> None:
    assert read_manifest(int8_artifact).calibration is None
    assert {path.name for path in calibrated.iterdir()} == {path.name for path in int8_artifact.iterdir()}
    assert not list(calibrated.parent.glob(".*"))
    labels = [pair.label for pair in read_pairs(pairs)]
    assert calibration.base_rate == pytest.approx(np.mean(labels))
    assert (calibration.data["pairs"], calibration.data["queries"]) == (len(labels), len(QUERIES))
    assert calibration.data["file"] == "pairs.jsonl"


def test_calibrating_again_gives_the_same(shell: Shell, calibrated: Path, pairs: Path, tmp_path: Path) -> None:
    code, out, _ = shell(calibrate_cli.main, calibrated, pairs, "--output", tmp_path / "again", "--json")
    assert code == 0
    expected = json.loads((calibrated / "manifest.json").read_text())["calibration"]
    assert json.loads(out) == {"artifact": str(tmp_path / "again"), **expected}


def test_export_calibrates_as_the_command_does(
    shell: Shell, tiny_checkpoint: Path, calibration: Calibration, pairs: Path, tmp_path: Path
) -> None:
    options = ("--no-fidelity", "--calibrate", pairs)
    code, out, _ = shell(export_cli.main, tiny_checkpoint, tmp_path / "artifact", *options)
    assert (code, "smooth calibration error" in out) == (0, True)
    assert read_manifest(tmp_path / "artifact").calibration == calibration
    code, out, _ = shell(export_cli.main, tiny_checkpoint, tmp_path / "other", *options, "--json")
    assert json.loads(out)["calibration"]["base_rate"] == calibration.base_rate


def test_export_finds_bad_pairs_before_the_work(shell: Shell, tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"query": "q", "document": "d"}\n')
    code, _, err = shell(
        export_cli.main, tiny_checkpoint, tmp_path / "artifact", "--calibrate", tmp_path / "pairs.jsonl"
    )
    assert (code, "Line 1" in err, (tmp_path / "artifact").exists()) == (1, True, False)


GOOD = {"query": "q", "document": "d", "label": 1}


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([GOOD, {**GOOD, "document": "e", "label": 1.5}], "Line 2 .*label 1.5 is outside"),
        ([GOOD, {**GOOD, "label": float("nan")}], "Line 2 .*label nan is outside"),
        ([{**GOOD, "label": "1"}], "Line 1 .*'1', not a number"),
        ([{**GOOD, "weight": -1}], "Line 1 .*weight -1"),
        ([{**GOOD, "weight": 10**400}], "Line 1 .*too large"),
        ([GOOD, {**GOOD, "document": "e"}], "All 2 pairs have the label 1"),
        ([GOOD, {**GOOD, "document": "e"}, {**GOOD, "label": 0}], "Lines 1 and 3 .*same pair with the labels 1 and 0"),
        ([{**GOOD, "weight": 0}], "All pairs have the weight 0"),
        ([{"q": "text", "pos": [1]}], "Line 1 .*query"),
        ([["q", "d", 1]], "Line 1 "),
        ([], "holds no pairs"),
    ],
    ids=["label", "nan", "text", "weight", "huge", "one label", "contrary", "no weight", "schema", "a list", "empty"],
)
def test_bad_pairs_leave_the_artifact_as_it_was(
    shell: Shell, artifact: Path, tmp_path: Path, rows: list[Any], reason: str
) -> None:
    before = (artifact / "manifest.json").read_bytes()
    (tmp_path / "bad.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, out, err = shell(calibrate_cli.main, artifact, tmp_path / "bad.jsonl")
    assert (code, out) == (1, "")
    assert re.search(reason, err)
    assert len(err.splitlines()) == 1
    assert (artifact / "manifest.json").read_bytes() == before


def test_pairs_may_begin_with_a_byte_order_mark(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "marked.jsonl").write_text(pairs.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert read_pairs(tmp_path / "marked.jsonl") == read_pairs(pairs)


def test_an_artifact_that_was_changed_is_not_calibrated(shell: Shell, artifact: Path, pairs: Path) -> None:
    tokenizer = (artifact / "tokenizer.json").read_bytes()
    (artifact / "tokenizer.json").unlink()
    (artifact / "tokenizer.json").write_bytes(tokenizer.replace(b"a", b"b", 1))
    before = (artifact / "manifest.json").read_bytes()
    code, _, err = shell(calibrate_cli.main, artifact, pairs)
    assert (code, "tokenizer.json was changed" in err) == (1, True)
    assert (artifact / "manifest.json").read_bytes() == before


def test_an_interrupted_calibration_changes_nothing(
    shell: Shell, artifact: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sample_module, "make_sample", interrupted)
    before = (artifact / "manifest.json").read_bytes()
    code, _, err = shell(calibrate_cli.main, artifact, pairs, "--output", tmp_path / "copy")
    assert (code, "the artifact is as it was" in err) == (1, True)
    assert (artifact / "manifest.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_an_output_in_use_is_refused_before_the_work(shell: Shell, calibrated: Path, pairs: Path) -> None:
    code, _, err = shell(calibrate_cli.main, calibrated, pairs, "--output", calibrated)
    assert (code, "not an empty folder" in err) == (1, True)
    code, _, err = shell(calibrate_cli.main, calibrated, pairs, "--report", calibrated / "missing" / "report.html")
    assert (code, "report.html cannot be written" in err) == (1, True)
    code, _, err = shell(calibrate_cli.main, calibrated, pairs, "--output", pairs / "copy" / "of it")
    assert (code, f"{pairs} is not a folder" in err) == (1, True)


def test_bad_usage_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        calibrate_cli.main([])
    assert caught.value.code == 2
    with pytest.raises(SystemExit) as caught:
        calibrate_cli.main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("ARTIFACT", "PAIRS.jsonl", "--output", "--report", "--json"))


def test_scores_are_those_of_the_artifact_whatever_the_order_of_the_pairs(reranker: Reranker, pairs: Path) -> None:
    rows = read_pairs(pairs)
    forward = score_pairs(reranker, rows, lambda count: None)
    backward = score_pairs(reranker, rows[::-1], lambda count: None)
    np.testing.assert_array_equal(forward.logits, backward.logits[::-1])
    expected = [reranker.score(pair.query, [pair.document], raw=True)[0] for pair in rows[:5]]
    np.testing.assert_array_equal(forward.logits[:5], expected)
    assert len(np.unique(forward.queries)) == len(QUERIES)


# A calibrated artifact


def test_scores_are_probabilities_and_the_order_stays(reranker: Reranker, calibration: Calibration) -> None:
    logits = reranker.score(QUERIES[0], DOCUMENTS, raw=True)
    scores = reranker.score(QUERIES[0], DOCUMENTS)
    expected = np.interp(logits, calibration.curve.logits, calibration.curve.probabilities)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    ranking = reranker.rerank(QUERIES[0], DOCUMENTS)
    assert [hit.index for hit in ranking] == np.argsort(-logits, kind="stable").tolist()
    assert [hit.score for hit in ranking] == [float(scores[hit.index]) for hit in ranking]
    for hit in ranking:
        assert hit.interval is not None
        low, high = hit.interval
        assert 0 < low <= hit.score * 1.000001
        assert hit.score <= high * 1.000001 < 1


def test_a_base_rate_moves_every_score(reranker: Reranker, calibration: Calibration) -> None:
    scores, rare = (reranker.score(QUERIES[0], DOCUMENTS, base_rate=rate) for rate in (None, 0.02))
    odds = scores / (1 - scores) * (0.02 / 0.98) / (calibration.base_rate / (1 - calibration.base_rate))
    np.testing.assert_allclose(rare / (1 - rare), odds, rtol=1e-4)
    ranking = reranker.rerank(QUERIES[0], DOCUMENTS, base_rate=0.02)
    assert [hit.score for hit in ranking] == [float(rare[hit.index]) for hit in ranking]
    assert all(
        low <= hit.score * 1.000001 <= high * 1.00001 for hit in ranking for low, high in [hit.interval or (1, 0)]
    )


def test_a_threshold_keeps_exactly_the_hits_from_its_score_on(reranker: Reranker) -> None:
    threshold = reranker.threshold(recall=0.6)
    for query in QUERIES:
        everything = reranker.rerank(query, DOCUMENTS)
        expected = [hit.index for hit in everything if hit.score >= threshold]
        for asked in (threshold, float(threshold), "recall>=0.6"):
            assert [hit.index for hit in reranker.rerank(query, DOCUMENTS, threshold=asked)] == expected
    kept = [hit for query in QUERIES for hit in reranker.rerank(query, DOCUMENTS, threshold=threshold)]
    assert 0 < len(kept) < len(QUERIES) * len(DOCUMENTS)


def test_a_promise_is_kept_on_the_pairs_themselves(reranker: Reranker, pairs: Path) -> None:
    labels = {(pair.query, pair.document.text): pair.label for pair in read_pairs(pairs)}
    threshold = reranker.threshold(recall=0.6)
    kept = [
        labels[query, hit.document]
        for query in QUERIES
        for hit in reranker.rerank(query, DOCUMENTS, threshold=threshold)
    ]
    assert sum(kept) / sum(labels.values()) == pytest.approx(threshold.recall)
    assert np.mean(kept) == pytest.approx(threshold.precision)
    assert threshold.recall >= 0.6


@pytest.mark.parametrize("threshold", ["precision", "precision>0.9", "recall>=2"])
def test_a_promise_that_is_none_is_refused(reranker: Reranker, threshold: str) -> None:
    with pytest.raises(InputError, match="threshold"):
        reranker.rerank(QUERIES[0], DOCUMENTS, threshold=threshold)


def test_what_needs_a_calibration_says_so(int8_artifact: Path) -> None:
    plain = Reranker.load(int8_artifact)
    for call in (
        lambda: plain.threshold(precision=0.9),
        lambda: plain.rerank("q", DOCUMENTS, threshold="precision>=0.9"),
        lambda: plain.score("q", DOCUMENTS, base_rate=0.1),
    ):
        with pytest.raises(CalibrationError, match=r"needs a calibrated artifact.*run memrerank-calibrate"):
            call()
    assert all(hit.interval is None for hit in plain.rerank("q", DOCUMENTS))


def test_the_command_line_shows_probabilities(shell: Shell, calibrated: Path, tmp_path: Path) -> None:
    (tmp_path / "memories.txt").write_text("\n".join(DOCUMENTS))
    arguments = ("rerank", QUERIES[0], "--memories", tmp_path / "memories.txt", "--artifact", calibrated, "--json")
    _, out, err = shell(cli.main, *arguments, "--threshold", "recall>=0.6", "--base-rate", 0.3)
    expected = Reranker.load(calibrated).rerank(QUERIES[0], DOCUMENTS, threshold="recall>=0.6", base_rate=0.3)
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["index"], row["score"], tuple(row["interval"])) for row in rows] == [
        (hit.index, hit.score, hit.interval) for hit in expected
    ]
    assert err == ""
    code, _, err = shell(cli.main, *arguments, "--threshold", "much")
    assert (code, "'much'" in err) == (1, True)


def test_info_describes_the_calibration(shell: Shell, calibrated: Path) -> None:
    _, out, _ = shell(cli.main, "info", calibrated)
    [line] = [line for line in out.splitlines() if line.startswith("calibration")]
    assert re.search(
        r"from 96 pairs of pairs.jsonl, \d\d\.\d% of them relevant, error 0\.\d+ on queries left out", line
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda calibration: calibration["curve"]["probabilities"].reverse(),
        lambda calibration: calibration["curve"]["logits"].reverse(),
        lambda calibration: calibration["curve"]["high"].__setitem__(-1, 1.0),
        lambda calibration: calibration["curve"]["low"].__setitem__(0, 0.0),
        lambda calibration: calibration["curve"]["low"].__setitem__(0, float("nan")),
        lambda calibration: calibration["curve"]["low"].pop(),
        lambda calibration: calibration["curve"].pop("low"),
        lambda calibration: calibration["points"]["recall"].pop(),
        lambda calibration: calibration.update(base_rate=0),
        lambda calibration: calibration["curve"].update(logits=[], probabilities=[], low=[], high=[]),
    ],
    ids=["falls", "logits", "one", "zero", "nan", "short", "missing", "points", "base rate", "empty"],
)
def test_a_damaged_calibration_is_refused(calibrated: Path, tmp_path: Path, change: Change) -> None:
    folder = spoiled(calibrated, tmp_path, change)
    with pytest.raises(ArtifactError, match=r"manifest\.json is not a valid manifest"):
        Reranker.load(folder)


def test_a_calibration_of_another_model_is_refused(calibrated: Path, tmp_path: Path) -> None:
    folder = spoiled(calibrated, tmp_path, lambda calibration: calibration.update(model_id="sha256:other"))
    with pytest.raises(ArtifactError, match=r"fitted for another model \(sha256:other.*run memrerank-calibrate"):
        Reranker.load(folder)


def spoiled(calibrated: Path, tmp_path: Path, change: Change) -> Path:
    folder = Path(shutil.copytree(calibrated, tmp_path / "spoiled"))
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest["calibration"])
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


# The report


@pytest.fixture(scope="module")
def report(calibrated: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    calibrate_cli.run_calibration(calibrated, pairs, folder / "copy", folder / "report.html")
    return folder / "report.html"


def test_the_report_is_one_file_with_everything(report: Path, calibration: Calibration) -> None:
    text = report.read_text(encoding="utf-8")
    assert text.count("<svg") == 5
    assert not re.search(r"(src|href)=\"(?!#)", text)
    assert "$" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)
    assert calibration.model_id[:19] in text
    for figure in calibration.metrics.values():
        assert f"{figure['brier']:.4f}" in text
    threshold = calibration.threshold(calibration_promise())
    assert f"<td>{float(threshold):.3f}</td><td>{threshold.precision:.1%}</td>" in text


def calibration_promise() -> Any:
    from memrerank_calibration.summary import PROMISES

    return next(promise for promise in PROMISES if promise.name == "recall")


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: the report was not opened in a browser")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_fits_a_browser(report: Path, width: int, tmp_path: Path) -> None:
    """Every plot has a size, and nothing makes the page wider than the window."""
    script = """<script>addEventListener('load', () => { document.title = JSON.stringify([innerWidth,
      document.documentElement.scrollWidth, ...[...document.querySelectorAll('svg')].map(e => e.clientWidth)]) })
      </script>"""
    page = tmp_path / "page.html"
    page.write_text(report.read_text(encoding="utf-8") + script, encoding="utf-8")
    done = subprocess.run(
        [
            str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--no-first-run", f"--user-data-dir={tmp_path / 'user'}",
            f"--window-size={width},900", "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    title = re.search(r"<title>(\[.*?\])</title>", done.stdout)
    assert title, done.stdout[:300]
    window, content, *plots = json.loads(title[1])
    assert content <= window
    assert len(plots) == 5
    assert min(plots) > 250


def test_the_commands_work_as_a_process(calibrated: Path, pairs: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "memrerank_calibration.cli", calibrated, pairs, "--output", tmp_path / "copy"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert Reranker.load(tmp_path / "copy").manifest.calibration is not None
