"""Text to token ids with a tokenizer that knows no added token, so no text can become a special one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from memrerank.errors import ArtifactError


def load_plain_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in `path`, as `without_added_tokens` wrote it; ArtifactError when it knows an added token."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise ArtifactError(f"{path} is not a tokenizer.json that can be read ({error}).") from error
    if tokenizer.get_added_tokens_decoder():
        raise ArtifactError(f"{path} has added tokens, which texts could inject; export the artifact again.")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def without_added_tokens(tokenizer_json: str) -> str:
    """The contents of a tokenizer.json reduced to what turns plain text into ids."""
    content = json.loads(tokenizer_json)
    content |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    return json.dumps(content, ensure_ascii=False)


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text; lone surrogates, which no tokenizer takes, are read as U+FFFD."""
    encodings = tokenizer.encode_batch([_without_surrogates(text) for text in texts], add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def _without_surrogates(text: str) -> str:
    """Pairs of surrogates become the character they stand for, lone ones U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
