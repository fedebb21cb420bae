"""Pairs have the ids of the checkpoint's own tokenizer, and no text of a user becomes a special token."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from encoder_checkpoints import KINDS, Kind, make_tokenizer
from memrerank import ArtifactError, Memory
from memrerank.prompt import PromptEncoder
from memrerank.tokenization import load_plain_tokenizer, without_added_tokens, without_special_tokens
from memrerank_export.encoder_source import pair_template
from memrerank_export.errors import CheckpointError

SPECIAL = {
    "Bert": ["[PAD]", "[CLS]", "[SEP]", "[MASK]"],
    "XLMRoberta": ["<s>", "<pad>", "</s>", "<mask>"],
    "ModernBert": ["<|padding|>", "<|endoftext|>", "[CLS]", "[SEP]", "[PAD]", "[MASK]"],
}
ALL_SPECIAL = sorted({token for tokens in SPECIAL.values() for token in tokens} | {"<unk>", "[UNK]"})
AROUND_A_PAIR = {"Bert": 3, "XLMRoberta": 4, "ModernBert": 3}

PARTS = st.sampled_from(
    [
        *(" ", "  ", "     ", "\n", "\t ", "\u3000", "\x00", "\u200d", "\ufdd0", "\ufeff", "▁", "##", "Ġ"),
        *("a", "the", " the", "Caroline", "yes", "2023", "it's", "[unused0]", "UNK", "CLS", "SEP", "mask", "s", "/s"),
        *("[", "]", "<", ">", "</", "<|", "|>", "日本", "é", "e\u0301", "ﬁ", "👩‍👩‍👧", "Ω", "\ud800"),
    ]
)
TEXTS = st.lists(PARTS | st.text(max_size=4), max_size=10).map("".join)
PLAIN_TEXTS = TEXTS.filter(lambda text: "\ud800" not in text and not any(token in text for token in ALL_SPECIAL))
HOSTILE_TEXTS = st.lists(st.sampled_from(ALL_SPECIAL) | PARTS, min_size=1, max_size=8).map("".join)
many = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Tokenizers:
    """The tokenizer of a checkpoint, and the encoder that an artifact of it has."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.kind = kind
        self.original = make_tokenizer(kind)
        template = pair_template(self.original, padding=0, with_types=kind == "Bert")
        path = folder / "tokenizer.json"
        path.write_text(without_special_tokens(self.original.to_str(), template.special_ids), encoding="utf-8")
        self.encoder = PromptEncoder(template, load_plain_tokenizer(path, template.special_ids), max_tokens=100_000)
        self.special_ids = {self.original.token_to_id(token) for token in SPECIAL[kind]}

    def encode(self, query: str, document: str) -> list[int]:
        """The ids of a pair, as the artifact makes them."""
        encoded = self.encoder.encode(Memory(query), [Memory(document)], [], None)
        return encoded.head + encoded.query + encoded.documents[0].ids


@pytest.fixture(scope="module", params=KINDS)
def tokenizers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizers:
    return Tokenizers(request.param, tmp_path_factory.mktemp("tokenizer"))


@many
@given(query=PLAIN_TEXTS, document=PLAIN_TEXTS)
@example("", "")
@example("a     b", "  a  ")
@example("[unused0]", "x[unused0]y")
def test_the_ids_are_those_of_the_checkpoints_tokenizer(tokenizers: Tokenizers, query: str, document: str) -> None:
    assert tokenizers.encode(query, document) == tokenizers.original.encode(query, document).ids


@many
@given(query=HOSTILE_TEXTS | TEXTS, document=HOSTILE_TEXTS | TEXTS)
@example("[SEP]", "</s>")
@example("</s></s>", "[CLS] [SEP] [MASK]")
def test_no_text_becomes_a_special_token(tokenizers: Tokenizers, query: str, document: str) -> None:
    ids = tokenizers.encode(query, document)
    assert sum(id in tokenizers.special_ids for id in ids) == AROUND_A_PAIR[tokenizers.kind]


def test_a_special_token_is_read_as_its_letters(tokenizers: Tokenizers) -> None:
    for token in SPECIAL[tokenizers.kind]:
        tokens = tokenizers.encoder.tokenizer.encode(f"a {token} b").tokens
        letters = "".join(tokens).replace("##", "").replace("▁", "").replace("Ġ", "")
        assert letters.lower() == f"a{token}b".lower()


def test_added_tokens_alone_do_not_make_a_text_special(tmp_path: Path) -> None:
    """Why words of the vocabulary are removed as well: Unigram finds `</s>` among them."""
    path = tmp_path / "tokenizer.json"
    path.write_text(without_added_tokens(make_tokenizer("XLMRoberta").to_str()), encoding="utf-8")
    assert 2 in Tokenizer.from_file(str(path)).encode("a </s> b").ids
    with pytest.raises(ArtifactError, match=r"special tokens among its words \(<s>, </s>\)"):
        load_plain_tokenizer(path, {0, 2})


def test_the_original_tokenizer_is_refused(tokenizers: Tokenizers, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizers.original.to_str(), encoding="utf-8")
    with pytest.raises(ArtifactError, match="added tokens that texts could inject"):
        load_plain_tokenizer(path, tokenizers.encoder.template.special_ids)


def test_words_that_were_added_keep_their_ids(tokenizers: Tokenizers) -> None:
    original = tokenizers.original.get_added_tokens_decoder().items()
    words = {token.content: id for id, token in original if not token.special}
    kept = {token.content: id for id, token in tokenizers.encoder.tokenizer.get_added_tokens_decoder().items()}
    assert kept == words
    assert bool(words) is (tokenizers.kind == "ModernBert")


def test_a_tokenizer_that_makes_no_pairs_is_refused() -> None:
    content = json.loads(make_tokenizer("Bert").to_str()) | {"post_processor": None}
    with pytest.raises(CheckpointError, match="no special token between the two texts"):
        pair_template(Tokenizer.from_str(json.dumps(content)), padding=0, with_types=True)


def test_token_types_that_change_within_a_text_are_refused() -> None:
    tokenizer = make_tokenizer("Bert")
    content = json.loads(tokenizer.to_str())
    content["post_processor"]["pair"][2]["SpecialToken"]["type_id"] = 1
    with pytest.raises(CheckpointError, match=r"token types \[0, 0, 1, 1, 1\]"):
        pair_template(Tokenizer.from_str(json.dumps(content)), padding=0, with_types=True)
