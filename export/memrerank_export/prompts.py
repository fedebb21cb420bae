"""The prompt of Qwen3-Reranker and MemReranker as a template of the artifact."""

from __future__ import annotations

from tokenizers import Tokenizer

from memrerank.template import Rendering, Segment, Template
from memrerank_export.errors import CheckpointError

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"

SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)

RENDERING = Rendering(
    time="[{time}] ",
    speaker="{speaker}: ",
    turn="{turn}\n",
    datetime_format="%Y-%m-%d %H:%M",
    date_format="%Y-%m-%d",
)


def qwen3_template(tokenizer: Tokenizer) -> Template:
    """The published prompt, with the ids that `tokenizer` (the checkpoint's own) gives its special tokens."""
    start, end = _special(tokenizer, "<|im_start|>"), _special(tokenizer, "<|im_end|>")
    think, no_think = _special(tokenizer, "<think>"), _special(tokenizer, "</think>")
    head: tuple[Segment, ...] = (
        start,
        f"system\n{SYSTEM}",
        end,
        "\n",
        start,
        "user\n<Instruct>: {instruction}\n<Query>:",
    )
    query: tuple[Segment, ...] = (" {query}\n<Document>:",)
    document: tuple[Segment, ...] = (" {document}", end, "\n", start, "assistant\n", think, "\n\n", no_think, "\n\n")
    return Template(head, query, document, RENDERING, INSTRUCTION)


def _special(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise CheckpointError(
            f"tokenizer.json has no token {token}, which the prompt of Qwen3-Reranker needs. "
            "Use the tokenizer that belongs to the checkpoint."
        )
    return int(found)
