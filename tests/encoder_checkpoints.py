"""Tiny random checkpoints of encoder rerankers, with tokenizers built as those of the published ones are."""

import inspect
import json
import string
import textwrap
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

Kind = Literal["Bert", "XLMRoberta", "ModernBert"]
KINDS: tuple[Kind, ...] = ("Bert", "XLMRoberta", "ModernBert")


def make_encoder(folder: Path, kind: Kind, *, seed: int = 0, **config: Any) -> Path:
    """Write a one-label classifier with random weights and a tokenizer to `folder`; `config` changes its shape."""
    folder.mkdir(parents=True)
    tokenizer = make_tokenizer(kind)
    tokenizer.save(str(folder / "tokenizer.json"))
    model = _random_model(kind, _config(kind, tokenizer) | config, seed)
    model.save_pretrained(folder)
    return folder


def make_tokenizer(kind: Kind) -> Tokenizer:
    """A tokenizer as the published ones are, of a few hundred words."""
    return Tokenizer.from_str({"Bert": _bert, "XLMRoberta": _xlm_roberta, "ModernBert": _modernbert}[kind]())


class PairReference:
    """A checkpoint run by transformers in fp32, with its own tokenizer, pairs one by one."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        self._model = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
        self._max_tokens = self._model.config.max_position_embeddings
        if isinstance(self._model, transformers.XLMRobertaForSequenceClassification):
            self._max_tokens -= self._model.config.pad_token_id + 1
        self._with_types = isinstance(self._model, transformers.BertForSequenceClassification)

    def ids(self, query: str, document: str) -> list[int]:
        """The ids of a pair whose document is cut to the positions that the model has."""
        return self._encode(query, document)["input_ids"]

    @torch.inference_mode()
    def logit(self, query: str, document: str) -> float:
        """The label of a pair."""
        encoded = self._encode(query, document)
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if self._with_types else [])]
        return self._model(**{name: torch.tensor([encoded[name]]) for name in names}).logits.item()

    def _encode(self, query: str, document: str) -> dict[str, list[int]]:
        batch = self._tokenizer([query], [document], truncation="only_second", max_length=self._max_tokens)
        return {name: rows[0] for name, rows in batch.items()}  # a call on one pair takes "" for no second text


def _config(kind: Kind, tokenizer: Tokenizer) -> dict[str, Any]:
    def id_of(*names: str) -> int:
        return next(id for name in names if (id := tokenizer.token_to_id(name)) is not None)

    return {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 160,
        "num_labels": 1,
        "pad_token_id": id_of("[PAD]", "<pad>"),
        "bos_token_id": id_of("[CLS]", "<s>"),
        "cls_token_id": id_of("[CLS]", "<s>"),
        "eos_token_id": id_of("[SEP]", "</s>"),
        "sep_token_id": id_of("[SEP]", "</s>"),
        **({"type_vocab_size": 1, "layer_norm_eps": 1e-5} if kind == "XLMRoberta" else {}),
        **(
            {"local_attention": 16, "num_hidden_layers": 4, "classifier_pooling": "cls"} if kind == "ModernBert" else {}
        ),
    }


def _random_model(kind: Kind, config: dict[str, Any], seed: int) -> transformers.PreTrainedModel:
    """A model that is far from the usual initialization: uneven norms, biases, logits that vary by units."""
    model = getattr(transformers, f"{kind}ForSequenceClassification")(getattr(transformers, f"{kind}Config")(**config))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 2:
                parameter.copy_(noise * (0.5 if "embeddings" in name else 2 / parameter.shape[1] ** 0.5))
            else:
                parameter.copy_(0.3 * noise + (1 if "norm" in name.lower() and name.endswith("weight") else 0))
    return model


@cache
def _texts() -> list[str]:
    return [
        inspect.getdoc(module) or "" for module in (json, string, textwrap, inspect, dict, str, list, int, Path)
    ] + [inspect.getsource(module) for module in (textwrap, string)]


@cache
def _bert() -> str:
    """WordPiece, whose special tokens are words of the vocabulary too."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        _texts(), trainers.WordPieceTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.enable_padding(length=128)  # as sentence-transformers leaves them
    tokenizer.enable_truncation(128)
    return str(tokenizer.to_str())


@cache
def _xlm_roberta() -> str:
    """Unigram after SentencePiece, whose special tokens are words of the vocabulary too, in fairseq's order."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    trainer = trainers.UnigramTrainer(vocab_size=500, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(_texts(), trainer)
    content = json.loads(tokenizer.to_str())
    content["model"]["vocab"].append(["<mask>", 0.0])
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return str(tokenizer.to_str())


@cache
def _modernbert() -> str:
    """Byte-level BPE with added tokens of both sorts, special tokens and runs of spaces, mixed."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|padding|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.add_tokens([AddedToken(" " * length, normalized=True) for length in range(8, 1, -1)])
    tokenizer.add_special_tokens(["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"])
    tokenizer.add_tokens([AddedToken("[unused0]", normalized=True)])
    cls, sep = (tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:0 [SEP]:0", special_tokens=[("[CLS]", cls), ("[SEP]", sep)]
    )
    return str(tokenizer.to_str())
