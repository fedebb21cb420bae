"""Text to token ids with a tokenizer in which no text can become a special token."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from memrerank.errors import ArtifactError


def load_plain_tokenizer(path: Path, special_ids: Collection[int]) -> Tokenizer:
    """The tokenizer in `path`; ArtifactError when a text could become a special token or one of `special_ids`."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise ArtifactError(f"{path} is not a tokenizer.json that can be read ({error}).") from error
    added = tokenizer.get_added_tokens_decoder()
    if reachable := [token.content for id, token in added.items() if token.special or id in special_ids]:
        raise ArtifactError(
            f"{path} has added tokens that texts could inject ({', '.join(reachable)}); export the artifact again."
        )
    if reachable := [token for id in sorted(special_ids) if (token := tokenizer.id_to_token(id))]:
        raise ArtifactError(
            f"{path} has special tokens among its words ({', '.join(reachable)}), so that texts could inject them; "
            "export the artifact again."
        )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def without_added_tokens(tokenizer_json: str) -> str:
    """The contents of a tokenizer.json reduced to what turns plain text into ids."""
    return _dump(json.loads(tokenizer_json) | _NOTHING_ADDED)


def without_special_tokens(tokenizer_json: str, special_ids: Collection[int]) -> str:
    """The contents of a tokenizer.json whose text can become any word, but no special token.

    Special are the added tokens that are flagged so and those in `special_ids`. Unigram and WordPiece models list them
    among their words as well, where a text would find them, so they are taken from there too; all but the unknown one,
    which stands for no word. Added tokens that are words, such as ModernBERT's runs of spaces, stay.
    """
    content = json.loads(tokenizer_json)
    special = [token for token in content["added_tokens"] if token["special"] or token["id"] in special_ids]
    words = [token for token in content["added_tokens"] if token not in special]
    _remove_words(content["model"], special)
    _add_words(content["model"], words)
    return _dump(content | _NOTHING_ADDED | {"added_tokens": words})


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text; lone surrogates, which no tokenizer takes, are read as U+FFFD."""
    encodings = tokenizer.encode_batch([_without_surrogates(text) for text in texts], add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


_NOTHING_ADDED: dict[str, Any] = {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}


def _remove_words(model: dict[str, Any], special: list[dict[str, Any]]) -> None:
    """Take special tokens from the vocabulary; in a list, where a word's place is its id, an empty word stays."""
    vocab = model["vocab"]
    for token in special:
        if isinstance(vocab, dict) and token["content"] != model.get("unk_token"):
            vocab.pop(token["content"], None)
        elif isinstance(vocab, list) and token["id"] < len(vocab):
            vocab[token["id"]][0] = ""


def _add_words(model: dict[str, Any], words: list[dict[str, Any]]) -> None:
    """Name added tokens in the vocabulary: those that it lacks are numbered anew when the tokenizer is read."""
    if isinstance(model["vocab"], dict):
        model["vocab"] |= {token["content"]: token["id"] for token in words}


def _dump(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False)


def _without_surrogates(text: str) -> str:
    """Pairs of surrogates become the character they stand for, lone ones U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
