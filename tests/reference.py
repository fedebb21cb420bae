"""The official recipes with transformers, and artifacts read without our code: what both must agree with."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
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

MXBAI_PREFIX = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n"
)
MXBAI_TASK = (
    "You are a search relevance expert who evaluates how well documents match search queries. For each query-document "
    "pair, carefully analyze the semantic relationship between them, then provide your binary relevance judgment (0 "
    "for not relevant, 1 for relevant).\nRelevance:"
)
MXBAI_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"

Matrices = Mapping[str, npt.NDArray[np.float32]]
Rounding = Callable[[torch.Tensor], torch.Tensor]


def official_ids(tokenizer_json: Path, query: str, document: str, instruction: str = INSTRUCTION) -> list[int]:
    """Qwen3-Reranker's ids of one pair: prefix, body and suffix encoded one by one, with added tokens recognized."""
    body = f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
    return ids_of(tokenizer_json, PREFIX, body, SUFFIX)


def official_mxbai_ids(tokenizer_json: Path, query: str, document: str, instruction: str = "") -> list[int]:
    """mxbai-rerank-v2's ids of one pair: its seven parts encoded one by one, with added tokens recognized."""
    question = (f"instruction: {instruction}\n" if instruction else "") + f"query: {query}"
    found = f"document: {document}"
    return ids_of(tokenizer_json, MXBAI_PREFIX, question, "\n", found, "\n", MXBAI_TASK, MXBAI_SUFFIX)


def ids_of(tokenizer_json: Path, *texts: str) -> list[int]:
    """The ids of texts that are encoded one by one."""
    tokenizer = _tokenizer(tokenizer_json)
    return [id for text in texts for id in tokenizer.encode(text, add_special_tokens=False).ids]


class ReferenceModel:
    """A checkpoint run by transformers in fp32, whole prompts one by one.

    `matrices` take the place of its own under their names, and inputs of linear layers go through `rounding`; the
    head stays as it is. `tokens` are the ids (true, false) of the score, `false` None for the logit of `true` alone.
    """

    def __init__(
        self,
        folder: Path,
        matrices: Matrices | None = None,
        rounding: Rounding | None = None,
        tokens: tuple[int, int | None] | None = None,
    ) -> None:
        config = _read_config(folder)
        model = getattr(transformers, config.architectures[0]).from_pretrained(
            folder, config=config, dtype=torch.float32, attn_implementation="eager"
        )
        self._decoder, self._head = model.model, _head(model, tokens or _score_ids(folder))
        for name, module in self._decoder.named_modules():
            if matrices is not None and isinstance(module, torch.nn.Linear | torch.nn.Embedding):
                module.weight = torch.nn.Parameter(torch.from_numpy(matrices[f"model.{name}.weight"]))
            if rounding is not None and isinstance(module, torch.nn.Linear):
                module.register_forward_pre_hook(lambda _, inputs: (rounding(inputs[0]),))

    @torch.inference_mode()
    def logit(self, ids: Sequence[int]) -> float:
        """logit(true) - logit(false) after the last of `ids`, or the one label of a classifier."""
        return (self._decoder(torch.tensor([ids])).last_hidden_state[0, -1] @ self._head).item()


def stored_matrices(artifact: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Every matrix [out, in] (or [token, hidden]) that an artifact stores, as the numbers it stands for."""
    tensors = {
        tensor.name: onnx.numpy_helper.to_array(tensor, base_dir=str(artifact))
        for tensor in onnx.load(artifact / "model.onnx", load_external_data=False).graph.initializer
    }
    plan = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))["plan"]
    return {name: _decoded(name, record["form"], record["shape"], tensors) for name, record in plan.items()}


def _decoded(name: str, form: str, shape: Sequence[int], tensors: Mapping[str, npt.NDArray]) -> npt.NDArray[np.float32]:
    embedding = "embed" in name
    if form in ("fp32", "fp16"):
        stored = tensors[name].astype(np.float32)
        return stored if embedding else stored.T.copy()
    levels, scale = tensors[f"{name}.levels"], tensors[f"{name}.scale"].astype(np.float32)
    if form == "int8-block":
        rows = (levels.astype(np.float32) - 128) * scale[..., None]
        return rows.reshape(shape[0], -1)[:, : shape[1]].copy()
    if form == "int8":
        return levels * scale if embedding else (levels * scale).T.copy()
    rows = np.empty((shape[0], levels.shape[1] * 32), np.float32)
    rows[:, 0::2], rows[:, 1::2] = ((half.reshape(shape[0], -1) - np.float32(8)) for half in (levels & 15, levels >> 4))
    return (rows * np.repeat(scale, 32, axis=1))[:, : shape[1]].copy()


def _head(model: transformers.PreTrainedModel, tokens: tuple[int, int | None]) -> torch.Tensor:
    """The vector that makes the score of a last state."""
    if hasattr(model, "score"):
        return model.score.weight.detach()[0].clone()
    true, false = tokens
    rows = model.lm_head.weight.detach()
    return rows[true].clone() if false is None else rows[true] - rows[false]


@cache
def _tokenizer(tokenizer_json: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tokenizer_json))


def _read_config(folder: Path) -> transformers.PretrainedConfig:
    """config.json, corrected where transformers 4 would silently run another model."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if rope := config.pop("rope_parameters", None):  # unknown to transformers 4, which would take a theta of 10,000
        config |= {"rope_theta": rope["rope_theta"], "rope_scaling": None}
    if _has_lm_head(folder):  # would be replaced by the embedding table if config.json says that they are tied
        config["tie_word_embeddings"] = False
    return transformers.AutoConfig.for_model(**config)


def _has_lm_head(folder: Path) -> bool:
    return any("lm_head.weight" in safe_open(shard, "pt").keys() for shard in folder.glob("*.safetensors"))


def _score_ids(folder: Path) -> tuple[int, int | None]:
    """The tokens that the checkpoint declares, or else those of the words that its family is scored by."""
    declared = folder / "1_LogitScore" / "config.json"
    if declared.is_file():
        ids = json.loads(declared.read_text(encoding="utf-8"))
        return ids["true_token_id"], ids.get("false_token_id")
    family = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    tokenizer = _tokenizer(folder / "tokenizer.json")
    true, false = {"qwen3": ("yes", "no"), "qwen2": ("1", "0")}[family]
    return tokenizer.token_to_id(true), tokenizer.token_to_id(false)
