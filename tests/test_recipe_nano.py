"""The training recipe in recipes/nano, end to end on a small sample that the test makes."""

import gzip
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from conftest import exported
from memrerank_calibration.pairs import read_pairs
from memrerank_calibration.sample import make_sample

FOLDER = Path(__file__).parent.parent / "recipes" / "nano"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz0123456789[]:.,?!'-()"]
WORDS += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]
MODULES = (
    "average batches conversations data evaluate groups hardest losses memories model nearest pairs "
    "quantization scenes slots speed split stage steps tables times transfer"
)


@pytest.fixture(scope="module")
def recipe() -> Iterator[SimpleNamespace]:
    """The modules of the recipe, imported as its scripts import them."""
    sys.path.insert(0, str(FOLDER))
    names = [*MODULES.split(), "train", "voices"]
    yield SimpleNamespace(**{name: __import__(name) for name in names})
    sys.path.remove(str(FOLDER))
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base model of random weights with a letter-wise WordPiece tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(WORDS[:4])
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(WORDS), max_position_embeddings=256, **sizes)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    save_file(BertModel(config).state_dict(), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a few rows in the schema of the real one."""
    folder = tmp_path_factory.mktemp("data")
    passages = [f"Nora{i}: I sold {i} cakes on day {i}." for i in range(40)] + [
        f"Gore{i} left town." for i in range(40)
    ]
    sources = ["sgd", "qadiscourse", "squad", "friendsqa"]
    rows = [
        {"q": f"Why did Gore{i} sell {i} cakes?", "pos": [i], "neg": [i // 8 * 8 + (i + k) % 8 for k in range(1, 8)]}
        | {"src": sources[i % 4], "kind": "factual", "label": "human"}
        for i in range(80)
    ]
    _write(folder / "passages.jsonl.gz", passages)
    _write(folder / "train.jsonl.gz", rows[:60])
    _write(folder / "valid.jsonl.gz", rows)
    return folder


def _write(path: Path, lines: list[object]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def _options(base: Path, data: Path, output: Path) -> list[str]:
    small = "--steps 4 --groups 6 --warmup 1 --threads 1 --limit 64 --int8-from 2 --forgive 1 --no-bf16 --lr 0.01 "
    small += "--scenes 0.5 --scene-files first.txt"
    return ["--base", str(base), "--data", str(data), "--output", str(output), *small.split()]


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    recipe: SimpleNamespace, base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    recipe.train.main(_options(base, data, whole))
    train_step = recipe.train.Trainer.train_step

    def interrupted(self: object, steps: object) -> dict[str, float]:
        if self.step == 3:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return train_step(self, steps)

    monkeypatch.setattr(recipe.train.Trainer, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recipe.train.main([*_options(base, data, parted), "--save-minutes", "0"])
    assert not (parted / "checkpoint").exists()
    monkeypatch.undo()
    recipe.train.main(_options(base, data, parted))
    expected, found = (load_file(folder / "checkpoint" / "model.safetensors") for folder in (whole, parted))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    steps = [json.loads(line)["step"] for line in (parted / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


def test_checkpoints_are_averaged(recipe: SimpleNamespace, base: Path, tmp_path: Path) -> None:
    models = [recipe.model.load_model(base, seed) for seed in (1, 2, 3)]
    folders = [tmp_path / str(number) for number in range(3)]
    for model, folder in zip(models, folders, strict=True):
        recipe.model.save_checkpoint(model, base, folder, torch.float32)
    recipe.average.main([*map(str, folders), "--output", str(tmp_path / "average")])
    found = load_file(tmp_path / "average" / "model.safetensors")
    for name in ("classifier.weight", "bert.encoder.layer.0.output.dense.weight"):
        expected = sum(model.state_dict()[name] for model in models) / 3
        torch.testing.assert_close(found[name], expected)


def test_a_checkpoint_is_measured(recipe: SimpleNamespace, base: Path, data: Path, tmp_path: Path) -> None:
    recipe.train.main([*_options(base, data, tmp_path / "run"), "--steps", "1"])
    checkpoint, output = str(tmp_path / "run" / "checkpoint"), tmp_path / "figures.json"
    options = ["--data", str(data), "--limit", "5", "--output", str(output)]
    recipe.evaluate.main([checkpoint, *options])
    figures = json.loads(output.read_text())
    assert figures["select"]["questions"] == 5
    artifact = exported(Path(checkpoint), tmp_path / "artifact", "fp32")
    recipe.evaluate.main([str(artifact), *options])
    again = json.loads(output.read_text())
    for part in ("select", "short", "long", "chat", "memory"):
        assert again[part]["MAP"]["mean"] == pytest.approx(figures[part]["MAP"]["mean"], abs=0.002)


def test_groups_are_measured_with_ties_against_the_positives(recipe: SimpleNamespace) -> None:
    groups = [recipe.groups.Group("q", ("yes", "no", "maybe"), (1.0, 0.0, 0.0), source) for source in ("a", "b")]
    found = recipe.evaluate.measure_groups(lambda queries: [[1.0, 1.0, 0.0], [2.0, 1.0, 0.0]], groups)
    assert found["questions"] == 2
    assert found["map_by_source"] == {"a": 0.5, "b": 1.0}
    assert found["MAP"]["mean"] == found["MRR"]["mean"] == 0.75
    assert found["NDCG@10"]["mean"] == pytest.approx((1 + 1 / np.log2(3)) / 2)


def test_a_calibration_is_measured_on_other_rows(
    recipe: SimpleNamespace, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe.transfer, "SPLITS", 3)
    of_data = ["--data", str(data), "--limit", "12"]
    recipe.pairs.main([*of_data, "--part", "test", "--output", str(tmp_path / "pairs.jsonl")])
    output = tmp_path / "figures.json"
    recipe.transfer.main(["default", "--fp32", "default", *of_data, "--output", str(output)])
    figures = json.loads(output.read_text())
    labels = [pair.label for pair in read_pairs(tmp_path / "pairs.jsonl")]
    assert figures["same_mix"]["pairs"] == len(labels)
    assert figures["same_mix"]["base_rate"] == pytest.approx(np.mean(labels), abs=1e-4)
    assert figures["same_mix"]["calibrated"]["log_loss"] < figures["same_mix"]["base rate"]["log_loss"]
    assert all(int8 == fp32 for int8, fp32 in figures["selected_int8_fp32"].values())


def test_a_promise_that_selects_nothing_has_no_precision(recipe: SimpleNamespace) -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(3000) < 0.3
    sample = make_sample(rng.normal(size=3000) + 4 * labels, labels, queries=np.arange(3000) // 30)
    calibration, _ = recipe.transfer.calibration_of(sample, "sha256:" + "0" * 64, {})
    low = make_sample(np.where(labels, -9.0, -8.0), labels, queries=sample.queries)
    assert recipe.transfer.promises_at(calibration, sample)["0.7"]["precision"] > 0.7
    assert recipe.transfer.promises_at(calibration, low)["0.7"] is None


def test_a_source_without_others_to_measure_on_is_left_out(recipe: SimpleNamespace) -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(400) < 0.3
    sample = make_sample(rng.normal(size=400) + 2 * labels, labels, queries=np.arange(400) // 10)
    sources = np.repeat(["one", "two"], 200)
    found = recipe.transfer.between_sources(sample, sources, sample, sources)
    assert set(found) == {"one", "two"}
    alone = np.repeat(["one"], 400)
    assert recipe.transfer.between_sources(sample, alone, sample, alone) == {}


def test_own_pairs_are_measured_on_other_questions(recipe: SimpleNamespace) -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(6000) < 0.1
    sample = make_sample(rng.normal(size=6000) + 3 * labels - 5, labels, queries=np.arange(6000) // 30)
    found = recipe.transfer.with_own_pairs(sample, times=3)
    assert found["calibrated"]["smooth_calibration_error"] < 0.03
    assert found["calibrated"]["log_loss"] < min(found["sigmoid"]["log_loss"], found["base rate"]["log_loss"])
    [(first, rest)] = recipe.transfer._halves(sample, 1)
    assert not set(first.queries) & set(rest.queries)
    assert recipe.transfer._oracle_recall(sample, 0.01) == 1


def test_the_documents_hold_the_tables_of_the_results(recipe: SimpleNamespace) -> None:
    texts = [FOLDER / "MODEL_CARD.md", FOLDER.parent.parent / "docs" / "calibration.md"]
    written = {line for path in texts for line in path.read_text(encoding="utf-8").splitlines()}
    for make in recipe.tables.TABLES:
        assert not set(make()) - written, make.__name__


def test_the_parts_share_no_passage_and_leave_out_what_may_not_be_trained_on(
    recipe: SimpleNamespace, data: Path
) -> None:
    rows = recipe.data.read_rows(data, "valid")
    assert "friendsqa" not in {row.source for row in rows}
    parts = recipe.split.split(rows)
    passages = [{i for row in part for i in (*row.positives, *row.negatives)} for part in parts.values()]
    assert all(not one & two for k, one in enumerate(passages) for two in passages[k + 1 :])
    assert parts == recipe.split.split(rows)


def test_simulated_int8_is_the_arithmetic_of_the_artifact(recipe: SimpleNamespace) -> None:
    from memrerank_export.forms import Int8Form

    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 5)
    x = torch.randn(3, 8, requires_grad=True)
    form = Int8Form()
    stored = form.decode(*form.encode(layer.weight.detach().numpy()))
    steps = np.abs(x.detach().numpy()).max(axis=1, keepdims=True) / 127
    rounded = np.rint(x.detach().numpy() / steps) * steps
    expected = rounded @ stored.T + layer.bias.detach().numpy()
    recipe.quantization.simulate_int8(layer)
    found = layer(x)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    found.sum().backward()
    assert x.grad is not None
    assert torch.all(x.grad != 0)
    assert type(recipe.quantization.restore(layer)) is torch.nn.Linear


def test_every_template_can_be_filled(recipe: SimpleNamespace) -> None:
    for seed in range(300):
        group = recipe.memories.memory_group(random.Random(seed))
        assert {0.0, 1.0} == set(group.labels)
        assert not any(mark in text for text in (group.query, *group.documents) for mark in "{}")


def test_written_conversations_have_answers_and_some_are_kept_aside(recipe: SimpleNamespace) -> None:
    train, aside = recipe.conversations.conversations(), recipe.conversations.conversations_aside()
    assert len({each.name for each in [*train, *aside]}) == len(train) + len(aside)
    for conversation in [*train, *aside]:
        assert conversation.questions
        assert all(0 <= i < len(conversation.lines) for each in conversation.questions for i in each.gold)
    groups = recipe.scenes.aside_groups("test")
    for group in groups:
        assert len(group.documents) == 50 if group.source == "short" else len(group.documents) > 90
        assert max(group.labels) == 1
    assert {group.source for group in groups} == {"short", *recipe.scenes.LONG_KINDS}


def test_a_question_on_a_conversation_has_near_lines_and_the_other_person_as_negatives(
    recipe: SimpleNamespace, base: Path
) -> None:
    found = recipe.conversations.conversations_aside()[:4]
    scenes = recipe.scenes.Scenes(base, found)
    for seed in range(40):
        group = scenes.draw(random.Random(seed))
        assert group == scenes.draw(random.Random(seed))
        assert {0.0, 1.0} == set(group.labels)
        most = recipe.scenes.NEAREST + recipe.scenes.FURTHER + recipe.scenes.STRANGERS + 1
        assert recipe.hardest.NEGATIVES < group.labels.count(0.0) <= most
        assert len(group.documents) == len(group.labels)
        assert not any(mark in text for text in (group.query, *group.documents) for mark in "{}")
    for asked in scenes.asked:
        gold = [asked.conversation.lines[i] for i in asked.question.gold]
        assert not set(gold) & set(asked.own)
        assert set(asked.own) | set(gold) == set(asked.conversation.lines)
        assert not set(asked.strangers) & set(asked.conversation.lines)


def test_the_negatives_that_score_highest_are_kept_of_those_that_count(recipe: SimpleNamespace) -> None:
    texts = tuple(f"document {i}" for i in range(20))
    group = recipe.groups.Group("who?", texts, (0.0, 1.0, 0.0, 1.0, *[0.0] * 16), "scenes")
    scores = [7.0, 1.0, 4.9, -3.0, *range(16)]
    counted = [label > 0.5 or score <= 5 for label, score in zip(group.labels, scores, strict=True)]
    found = recipe.hardest.hardest(group, scores, counted, random.Random(0))
    assert (found.query, found.source) == (group.query, group.source)
    assert found.documents[:2] == ("document 1", "document 3")
    assert found.labels == (1.0, 1.0) + (0.0,) * len(found.documents[2:])
    assert found.documents[2:8] == tuple(f"document {i}" for i in (9, 2, 8, 7, 6, 5))
    assert found.documents[8:] == ("document 4",)
    only = recipe.hardest.hardest(group, scores, [label > 0.5 for label in group.labels], random.Random(0))
    assert only.documents == ("document 1", "document 3")
    everything = recipe.hardest.hardest(group, scores, [True] * 20, random.Random(0))
    assert everything.documents[2:8] == tuple(f"document {i}" for i in range(19, 13, -1))
    assert len(everything.documents) == 2 + recipe.hardest.NEGATIVES
    assert len(set(everything.documents)) == len(everything.documents)
    assert not recipe.hardest.too_many(everything)


def test_training_sees_all_positives_and_a_few_hard_negatives(
    recipe: SimpleNamespace, base: Path, data: Path, tmp_path: Path
) -> None:
    options = recipe.train.arguments().parse_args(_options(base, data, tmp_path / "run"))
    trainer = recipe.train.Trainer(options)
    scenes = recipe.scenes.Scenes(base, recipe.conversations.conversations_aside()[:4])
    drawn = [scenes.draw(random.Random(seed)) for seed in range(3)] + [recipe.memories.memory_group(random.Random(0))]
    few, *found = trainer.with_hardest(drawn)
    assert [few, *found] == trainer.with_hardest(drawn)
    assert few == drawn[3]
    scorer = recipe.evaluate.CheckpointScorer(base)
    scorer.model = trainer.model
    for before, after in zip(drawn[:3], found, strict=True):
        assert len(after.documents) <= before.labels.count(1.0) + recipe.hardest.NEGATIVES < len(before.documents)
        (scores,) = scorer([(before.query, before.documents)])
        of_text = dict(zip(before.documents, scores, strict=True))
        bound = max(score for score, label in zip(scores, before.labels, strict=True) if label) + options.forgive
        ranked = sorted((s for s, label in zip(scores, before.labels, strict=True) if not label and s <= bound))
        kept = [of_text[text] for text, label in zip(after.documents, after.labels, strict=True) if not label]
        expected = ranked[::-1][: recipe.hardest.NEGATIVES - recipe.hardest.AT_RANDOM]
        np.testing.assert_allclose(kept[: len(expected)], expected, atol=1e-4)


def test_an_answer_by_the_other_person_is_a_negative_only_of_a_question_on_one(
    recipe: SimpleNamespace, base: Path
) -> None:
    talk = recipe.conversations
    lines = tuple(
        talk.Line("a" if i % 2 else "b", f"line {word}", 0) for i, word in enumerate(["kettle", "cat", "boat"])
    )
    for text, swapped in (("Where is {a}'s boat?", True), ("Do {a} and {b} sail?", False), ("Whose boat?", False)):
        conversation = talk.Conversation("boats", lines, (talk.Question(text, (2,)),))
        group = recipe.scenes.Scenes(base, [conversation]).draw(random.Random(0))
        said = [document for document in group.documents if document.endswith("line boat")]
        assert len(said) == 1 + swapped
        assert len({document.split("] ")[1] for document in said}) == len(said)


def test_the_nearest_lines_share_words_or_meaning(recipe: SimpleNamespace, base: Path) -> None:
    lines = ["the cat sat on the mat", "a violin concert", "trains to Lisbon", "my cat is grey"]
    cat, violin = recipe.nearest.nearness(base, ["which cat sits on the mat", "violin"], lines)
    assert cat.shape == violin.shape == (4,)
    assert cat.argmax() == 0
    assert set(cat.argsort()[:2]) == {1, 2}
    assert violin.argmax() == 1
    vectors = recipe.nearest.embeddings(base, lines)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    alone = recipe.nearest.embeddings(base, lines[2:3])
    np.testing.assert_allclose(vectors[2:3], alone, atol=1e-5)  # padding changes nothing


def test_the_speed_is_taken_beside_transformers(recipe: SimpleNamespace, tmp_path: Path) -> None:
    checkpoint, output = FOLDER / "checkpoint", tmp_path / "speed.json"
    tokenizer = recipe.model.load_tokenizer(checkpoint)
    lengths = [len(tokenizer.encode(text, add_special_tokens=False).ids) for text in recipe.speed.memories(checkpoint)]
    assert len(lengths) == recipe.speed.MEMORIES
    assert np.mean(lengths) == pytest.approx(recipe.speed.TOKENS, abs=1)
    recipe.speed.main([str(checkpoint), "--rounds", "1", "--output", str(output)])
    figures = json.loads(output.read_text())
    assert figures["ratio"] == pytest.approx(
        figures["documents_per_second"] / figures["documents_per_second_torch_fp32"], rel=0.01
    )


def test_a_named_person_can_be_made_to_speak(recipe: SimpleNamespace) -> None:
    told = recipe.voices.voiced("Why did Gore leave Boston?", ["Gore's father left. He has two sisters."], [], "Ida")
    assert told.query == "Why did Ida leave Boston?"
    assert told.positives == ["My father left. I have two sisters."]
    assert recipe.voices.voiced("Why is the sky blue?", ["Light scatters."], [], "Ida") is None
