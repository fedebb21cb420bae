"""From a call's arguments to the token ids of head, query and documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from memrerank.errors import InputError
from memrerank.memory import Memory
from memrerank.template import Segment, Template, fill, render_instruction, render_memory, render_query
from memrerank.tokenization import encode_texts

Ids = list[int]


@dataclass(frozen=True)
class EncodedDocument:
    """The ids of a document piece, and whether its text was cut to fit."""

    ids: Ids
    truncated: bool


@dataclass(frozen=True)
class EncodedPrompt:
    """The ids of a call: a prompt is head + query + one of the documents."""

    head: Ids
    query: Ids
    documents: list[EncodedDocument]


@dataclass(frozen=True)
class PromptEncoder:
    """Encodes the three pieces of prompts of at most `max_tokens` tokens."""

    template: Template
    tokenizer: Tokenizer
    max_tokens: int

    def encode(
        self, query: Memory, documents: Sequence[Memory], context: Sequence[Memory], instruction: str | None
    ) -> EncodedPrompt:
        """Encode a call; `query` may have a time. Texts of documents that are too long are cut at their end."""
        template = self.template
        rendered = render_query(query, context, template.rendering)
        head = self._piece(template.head, instruction=self._instruction(instruction))
        question = self._piece(template.query, query=rendered)
        return EncodedPrompt(head, question, self._documents(documents, len(head) + len(question)))

    def _instruction(self, given: str | None) -> str:
        if given is not None and self.template.instruction is None:
            raise InputError("An instruction was given, and this artifact's model takes none; leave it out.")
        chosen = self.template.instruction if given is None else given
        return render_instruction(chosen or "", self.template.rendering)

    def _documents(self, documents: Sequence[Memory], shared: int) -> list[EncodedDocument]:
        text, *end = self.template.document
        suffix = self._piece(end)
        room = self.max_tokens - shared - len(suffix)
        if room < 1:
            raise InputError(
                f"Instruction, context and query take {shared} tokens, and at most "
                f"{self.max_tokens - len(suffix) - 1} leave room for a document. Shorten them."
            )
        texts = [fill(str(text), document=render_memory(memory, self.template.rendering)) for memory in documents]
        return [
            EncodedDocument(ids[:room] + suffix, truncated=len(ids) > room)
            for ids in encode_texts(self.tokenizer, texts)
        ]

    def _piece(self, segments: Sequence[Segment], **values: str) -> Ids:
        ids: Ids = []
        for segment in segments:
            ids += [segment] if isinstance(segment, int) else encode_texts(self.tokenizer, [fill(segment, **values)])[0]
        return ids
