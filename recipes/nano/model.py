"""The cross-encoder, its tokenizer, and the checkpoint folder they live in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from batches import Batch, batches, encode

LIMIT = 160
"""Tokens of a pair in training; the model's positions allow more."""


def load_model(folder: Path, seed: int = 0) -> BertForSequenceClassification:
    """The model of `folder`: a base model gets a new head, drawn from `seed`.

    Attention is plain matrix products, which train faster than fused kernels on a CPU at these lengths; dropout is
    off, as one pass over the data leaves little to overfit and random numbers take time.
    """
    config = BertConfig.from_pretrained(
        folder, num_labels=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, dtype="float32"
    )
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = BertForSequenceClassification(config)
    weights = {_name(name): tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    weights.pop("bert.embeddings.position_ids", None)  # a buffer that older checkpoints store
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - {"classifier.weight", "classifier.bias"}:
        raise ValueError(f"{folder} is not a BERT checkpoint: missing {missing}, unexpected {unexpected}")
    return model


def _name(name: str) -> str:
    known = name.startswith(("bert.", "classifier."))
    return name if known else f"bert.{name}"


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of `folder` without padding or truncation."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def save_checkpoint(model: BertForSequenceClassification, base: Path, folder: Path, dtype: torch.dtype) -> None:
    """Write model.safetensors in `dtype`, with the config.json and tokenizer.json of `base`."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.to(dtype).contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text(encoding="utf-8")) | {
        "architectures": ["BertForSequenceClassification"],
        "dtype": str(dtype).removeprefix("torch."),
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    }
    for name in ("_name_or_path", "torch_dtype", "transformers_version"):
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if base.resolve() != folder.resolve():
        shutil.copyfile(base / "tokenizer.json", folder / "tokenizer.json")


def logits_of(model: BertForSequenceClassification, batch: Batch, bf16: bool) -> Tensor:
    """Logits [pairs] of a batch, in float32."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        output = model(input_ids=batch.ids, token_type_ids=batch.types, attention_mask=batch.mask)
    logits: Tensor = output.logits.float().squeeze(-1)
    return logits


def step_logits(
    model: BertForSequenceClassification,
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]],
    tokens: int = 4096,
    limit: int = LIMIT,
    bf16: bool = True,
) -> Tensor:
    """Logits [pairs] of (query, document) pairs in their order, computed in batches of similar length."""
    found = list(batches(encode(tokenizer, pairs, limit), tokens))
    logits = torch.cat([logits_of(model, batch, bf16) for batch in found])
    positions = torch.tensor([position for batch in found for position in batch.positions])
    return logits[torch.argsort(positions)]
