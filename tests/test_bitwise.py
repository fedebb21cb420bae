"""A logit depends on its own prompt alone: bit for bit the same in any batch, order, thread or state of caches."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from checkpoints import SMALL_VOCABULARY, make_checkpoint
from conftest import exported
from memrerank import Reranker
from memrerank.decoder import CHUNK
from memrerank.manifest import GRAPH
from memrerank.session import open_session
from reference import ReferenceModel, official_ids

Logits = npt.NDArray[np.float32]
WORDS = ["the", "blue", "house", "of", "Caroline", "was", "sold", "in", "2023", ",", "why", "?", "it", "rained", "\n"]
QUERY = "When was the house sold?"
SUFFIX_TOKENS = 9


@pytest.fixture(scope="module")
def odd_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sizes that fill no vector register evenly, and heads of the usual 128."""
    folder = tmp_path_factory.mktemp("odd")
    return make_checkpoint(folder, heads=3, kv_heads=1, head_dim=128, hidden=72, intermediate=100, layers=2)


@pytest.fixture(scope="module")
def odd_int8_artifact(odd_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(odd_checkpoint, tmp_path_factory.mktemp("odd-int8") / "artifact", "int8")


@pytest.fixture(scope="module")
def odd_int4_artifact(odd_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(odd_checkpoint, tmp_path_factory.mktemp("odd-int4") / "artifact", "int4")


@pytest.fixture(scope="module", params=["int8_artifact", "fp32_artifact", "odd_int8_artifact", "odd_int4_artifact"])
def artifact(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return folder


@pytest.fixture(scope="module")
def reranker(artifact: Path) -> Reranker:
    return Reranker.load(artifact, threads=2)


@pytest.fixture(scope="module")
def alone(reranker: Reranker) -> Logits:
    """The logits of `documents()`, each scored in a call of its own."""
    return np.concatenate([reranker.score(QUERY, [document], raw=True) for document in documents()])


def documents() -> list[str]:
    """Six of each of several lengths, and one each of others, some of them long."""
    rng = np.random.default_rng(3)
    lengths = [0, 1, 2, 3, 7, 20, 39, 40] * 6 + [4, 11, 60, 100, CHUNK + 30]
    return [words(rng, length) for length in lengths]


def words(rng: np.random.Generator, length: int) -> str:
    return " ".join(rng.choice(WORDS, length))


def assert_same_bits(found: Logits, expected: Logits) -> None:
    np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32))


def test_logits_vary_by_far_more_than_rounding(alone: Logits) -> None:
    assert alone.dtype == np.float32
    assert np.std(alone) > 0.5
    assert len(set(alone.tolist())) > len(alone) // 2


def test_all_at_once_is_as_alone(reranker: Reranker, alone: Logits) -> None:
    assert_same_bits(reranker.score(QUERY, documents(), raw=True), alone)


@pytest.mark.parametrize("seed", range(12))
def test_any_selection_in_any_order_is_as_alone(seed: int, reranker: Reranker, alone: Logits) -> None:
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(alone), size=rng.integers(2, 80))  # with repetitions
    found = reranker.score(QUERY, [documents()[i] for i in chosen], raw=True)
    assert_same_bits(found, alone[chosen])


@pytest.mark.parametrize("token_budget", [1, 50, 600])
def test_batches_of_any_size_are_as_alone(
    token_budget: int, reranker: Reranker, alone: Logits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memrerank.decoder.Decoder.token_budget", token_budget)
    assert_same_bits(reranker.score(QUERY, documents(), raw=True), alone)


@pytest.mark.parametrize("copies", [2, 3, 7, 30])
def test_duplicates_have_the_logit_of_the_original(copies: int, reranker: Reranker, alone: Logits) -> None:
    for i in (0, 3, 5, len(alone) - 1):
        found = reranker.score(QUERY, [documents()[i]] * copies, raw=True)
        assert_same_bits(found, np.repeat(alone[i], copies))


def test_rerank_has_the_logits_of_score(reranker: Reranker, alone: Logits) -> None:
    hits = {hit.index: hit.logit for hit in reranker.rerank(QUERY, documents())}
    assert_same_bits(np.array([hits[i] for i in range(len(alone))], np.float32), alone)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_and_a_fresh_reranker_change_nothing(threads: int, artifact: Path, alone: Logits) -> None:
    fresh = Reranker.load(artifact, threads=threads, probe=False)
    assert_same_bits(fresh.score(QUERY, documents(), raw=True), alone)
    assert_same_bits(fresh.score(QUERY, documents()[::-1], raw=True), alone[::-1])


def test_calls_with_other_instructions_and_queries_change_nothing(reranker: Reranker, alone: Logits) -> None:
    others = [("Why?", "Find what answers"), (QUERY, ""), (QUERY, "the " * 300), ("rain " * 300, None)]
    for query, instruction in others:
        other = reranker.score(query, documents(), instruction=instruction, raw=True)
        assert not np.array_equal(other, alone)
        assert_same_bits(reranker.score(QUERY, documents(), raw=True), alone)
        assert_same_bits(reranker.score(query, documents(), instruction=instruction, raw=True), other)


def test_calls_at_the_same_time_change_nothing(reranker: Reranker, alone: Logits) -> None:
    instructions = [None, "Find what answers", None, "Find who was there"] * 3

    def score(instruction: str | None) -> Logits:
        return reranker.score(QUERY, documents(), instruction=instruction, raw=True)

    expected = {instruction: score(instruction) for instruction in set(instructions)}
    assert_same_bits(expected[None], alone)
    with ThreadPoolExecutor(4) as pool:
        for instruction, found in zip(instructions, pool.map(score, instructions), strict=True):
            assert_same_bits(found, expected[instruction])


@pytest.mark.parametrize("architecture", ["Qwen3ForCausalLM", "Qwen2ForCausalLM"])
def test_fp16_has_the_logits_of_fp32_where_16_bits_hold_the_weights(architecture: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(
        tmp_path / "checkpoint", architecture=architecture, vocab=SMALL_VOCABULARY, dtype="float16", layers=2
    )
    fp16, fp32 = (Reranker.load(exported(checkpoint, tmp_path / form, form), threads=2) for form in ("fp16", "fp32"))
    expected = np.concatenate([fp32.score(QUERY, [document], raw=True) for document in documents()])
    assert_same_bits(fp16.score(QUERY, documents(), raw=True), expected)
    assert_same_bits(fp16.score(QUERY, documents()[::-1], raw=True), expected[::-1])
    assert np.std(expected) > 0.1


@pytest.fixture(scope="module")
def whole_prompt(artifact: Path) -> Callable[[list[int]], Logits]:
    """The logit of a whole prompt as one run of the graph on an empty past."""
    session = open_session(artifact / GRAPH)
    past = [value for value in session.get_inputs() if value.name.startswith("past_")]
    empty = {value.name: np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32) for value in past}
    return lambda ids: session.run(["logit"], {"input_ids": np.array([ids], np.int64), **empty})[0]


@pytest.mark.parametrize("seed", range(15))
def test_sharing_the_prefix_changes_nothing(
    seed: int, reranker: Reranker, whole_prompt: Callable[[list[int]], Logits]
) -> None:
    rng = np.random.default_rng(100 + seed)
    query = words(rng, rng.integers(0, 250))
    instruction = words(rng, rng.integers(0, 100))
    texts = [words(rng, length) for length in rng.integers(0, [15, 15, 15, 50, 50, 200, 400, 900])]
    prompts = [reranker.encode(query, text, instruction=instruction) for text in texts]
    found = reranker.score(query, texts, instruction=instruction, raw=True)
    assert_same_bits(found, np.concatenate([whole_prompt(prompt) for prompt in prompts]))


@pytest.mark.parametrize("chunks", [1, 2])
@pytest.mark.parametrize("piece", ["instruction", "query", "document"])
def test_sharing_the_prefix_changes_nothing_around_the_length_of_a_run(
    piece: str, chunks: int, reranker: Reranker, whole_prompt: Callable[[list[int]], Logits]
) -> None:
    different = []
    for length in range(chunks * CHUNK - 60, chunks * CHUNK + 5):  # a piece has up to 60 tokens besides this text
        texts = {"instruction": "Find it", "query": QUERY, "document": "It rained."} | {piece: "the " * length}
        query, document, instruction = texts["query"], texts["document"], texts["instruction"]
        found = reranker.score(query, [document], instruction=instruction, raw=True)
        prompt = reranker.encode(query, document, instruction=instruction)
        if found.tobytes() != whole_prompt(prompt).tobytes():
            different.append(len(prompt))
    assert different == []


@pytest.mark.parametrize("length", [CHUNK - 9, CHUNK - 8, CHUNK, 3 * CHUNK, 1300])
def test_long_documents_have_the_logit_of_transformers(
    length: int, tiny_checkpoint: Path, fp32_artifact: Path, tokenizer_json: Path
) -> None:
    document = words(np.random.default_rng(length), length)
    ids = official_ids(tokenizer_json, QUERY, document)
    assert_reference_logit(tiny_checkpoint, Reranker.load(fp32_artifact), QUERY, document, ids)


def test_a_document_over_the_limit_is_cut_at_its_end_and_reported(
    tiny_checkpoint: Path, fp32_artifact: Path, tokenizer_json: Path
) -> None:
    reranker = Reranker.load(fp32_artifact)
    limit = reranker.manifest.limits.max_tokens
    document = ("It rained on the blue house. " * 4000)[:100_000]
    ids, official = reranker.encode(QUERY, document), official_ids(tokenizer_json, QUERY, document)
    suffix = official_ids(tokenizer_json, QUERY, "")[-SUFFIX_TOKENS:]
    assert len(ids) == limit < len(official)
    assert ids == official[: limit - SUFFIX_TOKENS] + suffix
    assert tuple(reranker.rerank(QUERY, ["short", document, "short", document + "!"]).truncated) == (1, 3)
    assert_reference_logit(tiny_checkpoint, reranker, QUERY, document, ids)


@pytest.mark.parametrize("missing", [0, 1])
def test_only_what_exceeds_the_limit_is_cut(missing: int, fp32_artifact: Path, tokenizer_json: Path) -> None:
    reranker = Reranker.load(fp32_artifact)
    room = reranker.manifest.limits.max_tokens - len(official_ids(tokenizer_json, QUERY, "the")) + 1
    document = "the " * (room + missing - 1) + "the"
    ids = official_ids(tokenizer_json, QUERY, document)
    assert len(ids) == reranker.manifest.limits.max_tokens + missing
    assert (reranker.encode(QUERY, document) == ids) is (missing == 0)
    assert bool(reranker.rerank(QUERY, [document]).truncated) is (missing == 1)


def assert_reference_logit(checkpoint: Path, reranker: Reranker, query: str, document: str, ids: list[int]) -> None:
    assert reranker.encode(query, document) == ids
    [logit] = reranker.score(query, [document], raw=True)
    assert logit == pytest.approx(ReferenceModel(checkpoint).logit(ids), abs=1e-4)
