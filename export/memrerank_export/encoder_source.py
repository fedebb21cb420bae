"""Reading the checkpoint of an encoder: its limits, and the pair of texts that its tokenizer makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from tokenizers import Encoding, Tokenizer

from memrerank.manifest import TOKENIZER, Limits
from memrerank.template import Rendering, Template
from memrerank.tokenization import without_special_tokens
from memrerank_export.checkpoint import open_tensors, read_json
from memrerank_export.encoder import build_graph
from memrerank_export.encoder_config import parse_encoder_config
from memrerank_export.errors import CheckpointError, ExportError, TemplateError
from memrerank_export.prompts import PromptFile
from memrerank_export.reference import own_classifier, transformers_classifier
from memrerank_export.source import Origin, Source, read_tokenizer
from memrerank_export.tracing import weight_shapes
from memrerank_export.weights import Weights, checked_weight

TEMPLATE_NAME = "the tokenizer's pair"

RENDERING = Rendering(
    instruction="",
    time="[{time}] ",
    speaker="{speaker}: ",
    turn="{turn}\n",
    datetime_format="%Y-%m-%d %H:%M",
    date_format="%Y-%m-%d",
)


def read_encoder(
    origin: Origin, content: Mapping[str, Any], prompt: PromptFile | None, instruction: str | None
) -> Source:
    """Read all of an encoder's checkpoint but its weights; `content` is that of its config.json."""
    if prompt is not None or instruction is not None:
        raise TemplateError(
            f"{origin.name} is an encoder, which reads a plain pair of texts: it takes no template and no instruction. "
            "Leave them out."
        )
    folder = origin.folder
    config = parse_encoder_config(content, _tokenizer_config(origin))
    tokenizer = read_tokenizer(folder / TOKENIZER, config.vocab_size)
    template = pair_template(tokenizer, config.padding, with_types=config.architecture.startswith("Bert"))
    original = (folder / TOKENIZER).read_text(encoding="utf-8")
    shapes = weight_shapes(folder)

    def weights() -> Weights:
        tensors = open_tensors(folder)
        return {name: checked_weight(tensors, name, shape) for name, shape in shapes.items()}

    return Source(
        origin=origin,
        family="encoder",
        architecture=config.architecture,
        template_name=TEMPLATE_NAME,
        template=template,
        tokenizer_json=without_special_tokens(original, template.special_ids),
        score_tokens=None,
        limits=Limits(config.max_tokens),
        shapes=shapes,
        weights=weights,
        build_graph=lambda: build_graph(folder, config),
        build_cuda_graph=_refuse_cuda,
        reference=lambda weights: transformers_classifier(folder, template, weights),
        own_reference=lambda graph: own_classifier(graph, template),
        logit_scale=lambda weights: float(np.linalg.norm(weights[_label_weight(shapes)].read())),
    )


def _refuse_cuda(_: str) -> ir.Model:
    raise ExportError(
        "Artifacts of encoders are made for --device cpu only as yet; decoders (Qwen3, Qwen2) can be made for cuda."
    )


def pair_template(tokenizer: Tokenizer, padding: int, *, with_types: bool) -> Template:
    """The special tokens, and their types, that `tokenizer` puts around and between two texts."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    pair = tokenizer.encode("a", "b")
    text = [i for i, part in enumerate(pair.sequence_ids) if part == 0]
    second = [i for i, part in enumerate(pair.sequence_ids) if part == 1]
    between, end = pair.ids[text[-1] + 1 : second[0]], pair.ids[second[-1] + 1 :]
    if not between:
        raise CheckpointError(
            "tokenizer.json puts no special token between the two texts of a pair; the tokenizer of a reranker, with "
            "a post_processor for pairs, was expected."
        )
    return Template(
        head=tuple(pair.ids[: text[0]]),
        query=("{query}", *between),
        document=("{document}", *end),
        rendering=RENDERING,
        instruction=None,
        token_types=_token_types(pair, second[0]) if with_types else None,
        padding=padding,
    )


def _token_types(pair: Encoding, second: int) -> tuple[int, int]:
    """The type of the tokens before the second text, and of those from there on."""
    before, after = set(pair.type_ids[:second]), set(pair.type_ids[second:])
    if len(before) != 1 or len(after) != 1:
        raise CheckpointError(
            f"tokenizer.json gives a pair the token types {pair.type_ids}; one for the first text and one for the "
            "second, each with the special token behind it, were expected."
        )
    return before.pop(), after.pop()


def _tokenizer_config(origin: Origin) -> dict[str, Any]:
    path = origin.folder / "tokenizer_config.json"
    return read_json(path, dict) if path.is_file() else {}


def _label_weight(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return next(name for name in ("classifier.weight", "classifier.out_proj.weight") if name in shapes)
