"""The official Qwen3-Reranker recipe with transformers: what exported artifacts must agree with."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from tokenizers import Tokenizer

PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
YES, NO = 9693, 2152


def official_ids(tokenizer_json: Path, query: str, document: str, instruction: str = INSTRUCTION) -> list[int]:
    """The ids of one pair: prefix, body and suffix encoded one by one, with all added tokens recognized."""
    body = f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
    tokenizer = _tokenizer(tokenizer_json)
    return [id for text in (PREFIX, body, SUFFIX) for id in tokenizer.encode(text, add_special_tokens=False).ids]


class ReferenceModel:
    """A checkpoint run by transformers in fp32, whole prompts one by one."""

    def __init__(self, folder: Path) -> None:
        config = _read_config(folder)
        self._model = getattr(transformers, config.architectures[0]).from_pretrained(
            folder, config=config, dtype=torch.float32, attn_implementation="eager"
        )
        self._yes, self._no = _score_ids(folder)

    @torch.inference_mode()
    def logit(self, ids: Sequence[int]) -> float:
        """logit(yes) - logit(no) after the last of `ids`, or the one label of a classifier."""
        inputs = torch.tensor([ids])
        if isinstance(self._model, transformers.Qwen3ForSequenceClassification):
            return self._model(inputs).logits.item()
        last = self._model(inputs, logits_to_keep=1).logits[0, -1]
        return (last[self._yes] - last[self._no]).item()


@cache
def _tokenizer(tokenizer_json: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tokenizer_json))


def _read_config(folder: Path) -> transformers.Qwen3Config:
    """config.json, corrected where transformers 4 would silently run another model."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if rope := config.pop("rope_parameters", None):  # unknown to transformers 4, which would take a theta of 10,000
        config |= {"rope_theta": rope["rope_theta"], "rope_scaling": None}
    if _has_lm_head(folder):  # would be replaced by the embedding table if config.json says that they are tied
        config["tie_word_embeddings"] = False
    return transformers.Qwen3Config.from_dict(config)


def _has_lm_head(folder: Path) -> bool:
    return any("lm_head.weight" in safe_open(shard, "pt").keys() for shard in folder.glob("*.safetensors"))


def _score_ids(folder: Path) -> tuple[int, int]:
    declared = folder / "1_LogitScore" / "config.json"
    if not declared.is_file():
        return YES, NO
    ids = json.loads(declared.read_text(encoding="utf-8"))
    return ids["true_token_id"], ids["false_token_id"]
