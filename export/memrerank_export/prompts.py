"""Templates as JSON: the prompts that come with the exporter, and those of checkpoints that want another."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from memrerank.files import parse_json
from memrerank.template import Rendering, Segment, Template
from memrerank_export.errors import TemplateError

BUILT_IN = {"Qwen3": "qwen3-reranker", "Qwen2": "mxbai-rerank-v2"}
"""The template of an architecture, by how its name begins."""

PIECES = {"head": {"instruction"}, "query": {"query"}, "document": {"document"}}
"""The pieces of a prompt, each with the placeholder that it may hold."""


@dataclass(frozen=True)
class PromptFile:
    """A template file: the template, with special tokens still by name, and the words that make the score."""

    name: str
    content: Mapping[str, Any]

    @property
    def score_words(self) -> tuple[str, str | None]:
        """The word of a relevant document, and that of another one where the score compares two."""
        true, false = self.content["true_token"], self.content.get("false_token")
        if not isinstance(true, str) or not isinstance(false, str | None):
            raise TemplateError(f"{self.name}: true_token is {true!r} and false_token {false!r}; words were expected.")
        if true == false:
            raise TemplateError(f"{self.name}: the score would compare {true!r} with itself; two words were expected.")
        return true, false


def built_in_prompt(architecture: str) -> PromptFile:
    """The template that rerankers of this architecture are published with."""
    name = next(name for start, name in BUILT_IN.items() if architecture.startswith(start))
    return read_prompt(Path(str(files("memrerank_export").joinpath("templates", f"{name}.json"))))


def read_prompt(path: Path) -> PromptFile:
    """The template in a JSON file; TemplateError says what is wrong with it."""
    if not path.is_file():
        raise TemplateError(f"There is no template file {path}.")
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TemplateError(f"{path} cannot be read as a template in JSON ({error}).") from error
    if not isinstance(content, dict):
        raise TemplateError(f"{path} holds a JSON {type(content).__name__}; a template is an object.")
    keys = {*PIECES, "rendering", "instruction", "true_token"}
    if missing := sorted(keys - set(content)):
        raise TemplateError(f"{path} lacks {', '.join(missing)}; a template has all of {', '.join(sorted(keys))}.")
    if unknown := sorted(set(content) - keys - {"false_token"}):
        raise TemplateError(f"{path} has {', '.join(unknown)}, which no template has.")
    return PromptFile(path.stem, content)


def as_template(prompt: PromptFile, tokenizer: Tokenizer, instruction: str | None) -> Template:
    """The template with the ids of `tokenizer` (the checkpoint's own) and, if given, another default instruction."""
    pieces = {piece: _segments(prompt, piece, tokenizer) for piece in PIECES}
    _check_document(prompt, pieces["document"])
    default = prompt.content["instruction"] if instruction is None else instruction
    if not isinstance(default, str):
        raise TemplateError(f"{prompt.name}: the instruction is {default!r}; a text was expected.")
    if default and "{instruction}" not in str(pieces["head"]):
        raise TemplateError(f"{prompt.name}: the head has no {{instruction}}, so the instruction cannot be shown.")
    head, query, document = (pieces[piece] for piece in PIECES)
    return Template(head, query, document, _rendering(prompt), default)


def _segments(prompt: PromptFile, piece: str, tokenizer: Tokenizer) -> tuple[Segment, ...]:
    content = prompt.content[piece]
    if not isinstance(content, list):
        raise TemplateError(f"{prompt.name}: {piece} is {content!r}; a list of segments was expected.")
    segments = tuple(_segment(prompt, piece, segment, tokenizer) for segment in content)
    found = [name for segment in segments if isinstance(segment, str) for name in _placeholders(segment)]
    if piece != "head" and found != [piece]:
        raise TemplateError(f"{prompt.name}: {piece} has the placeholders {found}; {{{piece}}}, once, was expected.")
    if unknown := set(found) - PIECES[piece]:
        raise TemplateError(f"{prompt.name}: {piece} has the unknown placeholders {sorted(unknown)}.")
    return segments


def _segment(prompt: PromptFile, piece: str, segment: object, tokenizer: Tokenizer) -> Segment:
    if isinstance(segment, str):
        return segment
    token = segment.get("token") if isinstance(segment, dict) else None
    if not isinstance(token, str):
        raise TemplateError(
            f'{prompt.name}: {piece} has the segment {segment!r}; a text or {{"token": "<|im_end|>"}} was expected.'
        )
    found = tokenizer.token_to_id(token)
    if found is None:
        raise TemplateError(
            f"tokenizer.json has no token {token}, which the template {prompt.name} needs. Use the tokenizer that "
            "belongs to the checkpoint, or give the checkpoint's own template with --template."
        )
    return int(found)


def _check_document(prompt: PromptFile, segments: tuple[Segment, ...]) -> None:
    """Documents are cut at the end of their segment, so nothing may stand behind them there."""
    if not (segments and isinstance(segments[0], str) and segments[0].endswith("{document}")):
        raise TemplateError(
            f"{prompt.name}: the first segment of document is {segments[0]!r}; a text that ends in {{document}} was "
            "expected, with what follows in segments of their own."
        )


def _rendering(prompt: PromptFile) -> Rendering:
    content = prompt.content["rendering"]
    try:
        rendering = Rendering(**content)
    except TypeError as error:
        raise TemplateError(f"{prompt.name}: the rendering is not complete or not known ({error}).") from error
    if wrong := [name for name, value in content.items() if not isinstance(value, str)]:
        raise TemplateError(
            f"{prompt.name}: {wrong[0]} of the rendering is {content[wrong[0]]!r}; a text was expected."
        )
    for name, text in content.items():
        expected = [] if name.endswith("_format") else [f"{{{name}}}"]
        if (found := [f"{{{placeholder}}}" for placeholder in _placeholders(text)]) != expected:
            raise TemplateError(
                f"{prompt.name}: {name} of the rendering has the placeholders {found}; {expected} was expected."
            )
    return rendering


def _placeholders(text: str) -> list[str]:
    return re.findall(r"\{(\w+)\}", text)
