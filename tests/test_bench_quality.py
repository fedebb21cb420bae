import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, ndcg_score

from memrerank import InputError, Memory, Reranker
from memrerank_bench import metrics, quality
from memrerank_bench.cli import main
from memrerank_bench.questions import Question, Questions, read_questions


def write_lines(path: Path, rows: Sequence[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


@pytest.fixture
def locomo(tmp_path: Path) -> Path:
    folder = tmp_path / "locomo"
    memories = [
        {"id": "D1:1", "iso": "2023-05-08T13:56", "speaker": "Ann", "text": "I paint.", "caption": "a lake"},
        {"id": "D1:2", "iso": "2023-05-08T13:57", "speaker": "Bob", "text": "I run."},
        {"id": "D1:3", "iso": "2023-05-09T08:00", "speaker": "Ann", "text": "It rains."},
    ]
    candidates = [["D1:2", 1, 2, 4.5, 0.6], ["D1:1", 2, 1, 5.5, 0.7]]
    queries = [
        {"qid": f"q{i}", "conv": "c", "cat": cat, "query": "Who paints?", "gold": ["D1:1", "D1:3"], "cands": candidates}
        for i, cat in enumerate((1, 2, 5))
    ]
    write_lines(folder / "memories_c.jsonl", memories)
    write_lines(folder / "queries.jsonl", queries)
    return folder


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    folder = tmp_path / "beir"
    corpus = [
        {"_id": "a", "title": "Lakes", "text": "Water.", "time": "2024-01-02", "speaker": "Ann"},
        {"_id": "b", "title": "", "text": "Hills."},
        {"_id": "c", "text": "Trees."},
    ]
    write_lines(folder / "corpus.jsonl", corpus)
    write_lines(folder / "queries.jsonl", [{"_id": "1", "text": "lake?"}, {"_id": "2", "text": "tree?"}])
    write_lines(folder / "qrels" / "test.tsv", ["query-id\tcorpus-id\tscore", "1\ta\t2", "1\tb\t0", "2\tc\t1"])
    return folder


def test_locomo_memories_keep_time_speaker_and_caption(locomo: Path) -> None:
    found = read_questions(locomo)
    assert [question.category for question in found.questions] == ["multi-hop", "temporal"]
    first = found.questions[0]
    assert list(first.candidates) == ["D1:2", "D1:1"]
    assert first.candidates["D1:1"] == Memory("I paint. (a lake)", "2023-05-08T13:56", "Ann")
    assert first.relevance == {"D1:1": 1, "D1:3": 1}
    assert first.first_stage == {"rrf": [0.0, -1.0], "bm25": [4.5, 5.5]}


def test_locomo_gives_adversarial_questions_where_they_are_asked_for(locomo: Path) -> None:
    found = read_questions(locomo, categories=["adversarial"])
    assert [question.id for question in found.questions] == ["q2"]


def test_beir_reads_the_whole_corpus_or_the_run(beir: Path, tmp_path: Path) -> None:
    whole = read_questions(beir).questions
    assert [list(question.candidates) for question in whole] == [["a", "b", "c"]] * 2
    assert whole[0].candidates["a"] == Memory("Lakes Water.", "2024-01-02", "Ann")
    assert whole[0].relevance == {"a": 2}
    run = tmp_path / "run.txt"
    write_lines(run, ["1 Q0 b 2 1.5 bm25", "1 Q0 a 1 2.5 bm25"])
    found = read_questions(beir, run=run)
    assert [list(question.candidates) for question in found.questions] == [["a", "b"]]
    assert found.questions[0].first_stage == {"run": [2.5, 1.5]}
    assert found.left_out == 1


def test_pairs_with_the_same_question_are_its_candidates(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows: list[dict[str, Any]] = [
        {"query": "q", "document": {"text": "x", "speaker": "Ann", "time": "2024-01-02"}, "label": 0.9},
        {"query": "q", "document": "y", "label": 0.2},
        {"query": "q", "document": "z", "label": 1, "context": ["before"]},
    ]
    write_lines(path, rows)
    found = read_questions(path)
    assert (len(found.questions), found.left_out) == (1, 1)
    assert list(found.questions[0].candidates.values()) == [Memory("x", "2024-01-02", "Ann"), Memory("y")]
    assert found.questions[0].relevance == {"0": 1}


@pytest.mark.parametrize(
    ("name", "line", "number"),
    [
        ("locomo/queries.jsonl", '{"qid": ', 4),
        ("locomo/queries.jsonl", '{"qid": "x", "conv": "other", "cat": 1}', 4),
        ("locomo/memories_c.jsonl", '{"id": "D9:9"}', 4),
        ("locomo/memories_c.jsonl", '["no object"]', 4),
        ("beir/corpus.jsonl", '{"_id": "d", "text": 5}', 4),
        ("locomo/queries.jsonl", '{"qid": "x", "conv": "c", "cat": 1, "query": "", "gold": "D1:1", "cands": []}', 4),
        ("locomo/queries.jsonl", '{"qid": "x", "conv": "c", "cat": 1, "cands": [["D1:1"], ["D1:1"]]}', 4),
        ("beir/queries.jsonl", '{"text": "no id"}', 3),
        ("beir/queries.jsonl", '{"_id": "3", "text": "hm", "context": "Mel: hi"}', 3),
        ("beir/queries.jsonl", '{"_id": "3", "text": "hm", "category": 4}', 3),
        ("beir/queries.jsonl", "[" * 200_000, 3),
        ("beir/qrels/test.tsv", "1 a 1", 5),
        ("beir/qrels/test.tsv", "1\ta\tx", 5),
    ],
)
def test_a_broken_line_is_named(name: str, line: str, number: int, locomo: Path, beir: Path) -> None:
    path = locomo.parent / name
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match=rf"Line {number} of .*{path.name}"):
        read_questions(locomo if name.startswith("locomo") else beir)


@pytest.mark.parametrize("name", ["locomo", "beir"])
def test_an_id_of_two_questions_is_refused(name: str, locomo: Path, beir: Path) -> None:
    path = locomo.parent / name / "queries.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    with pytest.raises(InputError, match=r"more than one question with the id '(q0|1)'"):
        read_questions(path.parent)


def test_questions_without_candidates_agree() -> None:
    found = metrics.agreement([np.array([]), np.array([1.0, 2.0])], [np.array([]), np.array([2.0, 1.0])])
    assert found["other_first"] == 0.5


def test_a_run_of_unknown_documents_is_refused(beir: Path, tmp_path: Path) -> None:
    run = tmp_path / "run.txt"
    write_lines(run, ["1 Q0 zebra 1 1.5 bm25"])
    with pytest.raises(InputError, match="zebra"):
        read_questions(beir, run=run)


def random_questions(count: int, *, missed: bool) -> tuple[list[Question], list[np.ndarray[Any, Any]]]:
    draw = np.random.default_rng(0)
    questions, scores = [], []
    for i in range(count):
        size = int(draw.integers(3, 40))
        relevant = draw.random(size) < 0.3
        relevant[draw.integers(size)] = True
        relevance = {f"d{j}": 1 for j in np.flatnonzero(relevant)} | ({"lost": 1} if missed else {})
        questions.append(Question(f"q{i}", "", {f"d{j}": Memory("") for j in range(size)}, relevance, {}))
        scores.append(draw.standard_normal(size))
    return questions, scores


def test_measures_are_those_of_scikit_learn() -> None:
    questions, scores = random_questions(60, missed=False)
    found = metrics.evaluate(questions, scores, [5])
    for i, (question, logits) in enumerate(zip(questions, scores, strict=True)):
        truth = [name in question.relevance for name in question.candidates]
        assert found["MAP"][i] == pytest.approx(average_precision_score(truth, logits))
        assert found["NDCG@5"][i] == pytest.approx(ndcg_score([truth], [logits], k=5))


def test_relevant_documents_that_are_no_candidates_are_lost() -> None:
    questions, scores = random_questions(20, missed=True)
    found = metrics.evaluate(questions, scores, [100])
    for i, question in enumerate(questions):
        gold = len(question.relevance)
        truth = [name in question.relevance for name in question.candidates]
        assert found["recall@100"][i] == pytest.approx((gold - 1) / gold)
        assert found["MAP"][i] == pytest.approx(average_precision_score(truth, scores[i]) * (gold - 1) / gold)


def test_ties_keep_the_order_of_the_candidates() -> None:
    names = {"b": Memory(""), "a": Memory(""), "c": Memory("")}
    question = Question("q", "", names, {"a": 1}, {})
    assert metrics.evaluate([question], [[1.0, 1.0, 1.0]], [1])["MRR"][0] == 0.5


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    draw = np.random.default_rng(1)
    found = [metrics.interval(draw.random(80)) for _ in range(100)]
    assert 88 <= sum(one["low"] <= 0.5 <= one["high"] for one in found) <= 100  # type: ignore[operator]


def test_a_paired_test_tells_a_small_steady_gain_from_none() -> None:
    draw = np.random.default_rng(2)
    base = draw.random(50)
    steady, none = base + 0.02 + 0.01 * draw.standard_normal(50), base + 0.3 * draw.standard_normal(50)
    assert (metrics.gain(steady, base)["p"] or 0) < 0.001 < 0.05 < (metrics.gain(none, base)["p"] or 0)


def test_agreement_counts_pairs_in_another_order() -> None:
    found = metrics.agreement([[3.0, 2.0, 1.0], [1.0, 2.0]], [[3.0, 1.0, 2.0], [1.0, 2.0]])
    assert found["flips"] == pytest.approx((1 / 3 + 0) / 2)
    assert found["kendall_tau"] == pytest.approx((1 / 3 + 1) / 2)
    assert found["other_first"] == 0


def test_a_run_with_a_score_that_is_no_number_is_refused(beir: Path, tmp_path: Path) -> None:
    run = tmp_path / "bm25.run"
    run.write_text("1 Q0 a 1 2.5 bm25\n1 Q0 b 2 nan bm25\n")
    with pytest.raises(InputError, match=r"Line 2 of .*bm25.run.*not a number"):
        read_questions(beir, run=run)


def test_an_order_that_some_questions_lack_is_not_compared_with() -> None:
    given = {"bm25": [1.0, 2.0], "rrf": [2.0, 1.0]}
    candidates = {"x": Memory("x"), "y": Memory("y")}
    both, one = (
        Question(name, "q", candidates, {"x": 1}, first_stage=orders)
        for name, orders in (("1", given), ("2", {"bm25": given["bm25"]}))
    )
    for questions in ((both, one), (one, both)):
        found = quality._by_category(questions, [[np.array([2.0, 1.0])] * 2], [10])["all"]
        assert set(found["first_stage"]) == set(found["gain_of_fusing"]) == {"bm25"}


def test_an_order_is_fused_by_reciprocal_ranks_with_its_own_twice() -> None:
    own, first = [9.0, 7.0, 7.0, -2.0], [0.1, 0.4, 0.3, 0.2]  # ranks 1 2 3 4, ties in order, and 4 1 2 3
    expected = [2 / 61 + 1 / 64, 2 / 62 + 1 / 61, 2 / 63 + 1 / 62, 2 / 64 + 1 / 63]
    np.testing.assert_allclose(quality.fused_scores(own, first), expected)


def test_quality_ranks_as_the_reranker_does(
    int8_artifact: Path, beir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quality", str(int8_artifact), str(beir), "--threads", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    documents = [Memory("Lakes Water.", "2024-01-02", "Ann"), "Hills.", "Trees."]
    reranker = Reranker.load(int8_artifact, threads=1)
    places = [
        [hit.index for hit in reranker.rerank(query, documents)].index(gold)
        for query, gold in (("lake?", 0), ("tree?", 2))
    ]
    expected = np.mean([1 / (place + 1) for place in places])
    assert result["categories"]["all"]["artifact"]["MRR"]["mean"] == pytest.approx(expected)
    assert result["artifact"]["precision"] == "int8"
    assert result["partial"] is None


def test_quality_compares_with_the_first_stage_and_another_artifact(
    int8_artifact: Path, fp32_artifact: Path, locomo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "q.json"
    arguments = ["quality", str(int8_artifact), str(locomo), "--against", str(fp32_artifact), "--output", str(output)]
    assert main([*arguments, "--threads", "1"]) == 0
    found = json.loads(output.read_text())["categories"]
    assert set(found) == {"all", "multi-hop", "temporal"}
    everything = found["all"]
    assert everything["first_stage"]["bm25"]["MRR"]["mean"] == 1
    assert everything["first_stage"]["rrf"]["MRR"]["mean"] == 0.5
    own, first = everything["artifact"]["MAP"]["mean"], everything["first_stage"]["rrf"]["MAP"]["mean"]
    assert everything["gain_over_first_stage"]["rrf"]["MAP"]["mean"] == pytest.approx(own - first)
    fused = everything["fused_with_first_stage"]["bm25"]["MAP"]["mean"]
    assert everything["gain_of_fusing"]["bm25"]["MAP"]["mean"] == pytest.approx(fused - own)
    assert 0 <= everything["agreement_with_against"]["flips"] <= 1
    shown = capsys.readouterr().out
    assert "gain over" in shown
    assert "gain of fusing with" in shown
    assert "Kendall's tau" in shown


def test_an_interruption_keeps_what_is_scored(int8_artifact: Path, beir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score = quality._score

    def interrupted(reranker: Reranker, question: Question) -> Any:
        if question.id == "2":
            raise KeyboardInterrupt
        return score(reranker, question)

    monkeypatch.setattr(quality, "_score", interrupted)
    found = quality.measure_quality([str(int8_artifact)], read_questions(beir), [10], device="cpu", threads=1)
    assert found["partial"] == "interrupted"
    assert (found["data"]["questions"], found["data"]["of_questions"]) == (1, 2)
    assert found["categories"]["all"]["questions"] == 1


def test_an_error_after_some_questions_keeps_them_and_says_why(int8_artifact: Path) -> None:
    documents = {"a": Memory("x"), "b": Memory("y")}
    questions = tuple(
        Question(name, "w " * words, documents, {"a": 1}, {}) for name, words in (("1", 3), ("2", 20_000))
    )
    found = quality.measure_quality([str(int8_artifact)], Questions("pairs", questions), [10], device="cpu", threads=1)
    assert "Shorten them" in found["partial"]
    assert found["data"]["questions"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["{artifact}", "{nothing}"], 1, "holds no data"),
        (["{nothing}", "{data}"], 1, "is not a folder|has no manifest"),
        (["{artifact}", "{data}", "--output", "{nothing}/x.json"], 1, "cannot be written"),
        (["{artifact}", "{data}", "--category", "songs"], 1, "no question"),
        (["{artifact}", "{data}", "--split", "train"], 1, "--split"),
        (["{artifact}", "{data}", "--device", "cuda"], 1, "cuda"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    code: int,
    reason: str,
    int8_artifact: Path,
    beir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"artifact": int8_artifact, "data": beir, "nothing": tmp_path / "nothing"}
    assert main(["quality", *(argument.format(**places) for argument in arguments)]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert any(part in shown.err for part in reason.split("|"))


@pytest.mark.parametrize(
    "arguments", [[], ["quality"], ["quality", "a", "b", "--sample", "0"], ["quality", "a", "b", "--cutoff", "x"]]
)
def test_bad_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
