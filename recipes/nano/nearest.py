"""The lines nearest to each question by meaning and by words, which make the negatives that are hard to tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from torch.nn import functional
from transformers import BertModel

from batches import batches, encode
from model import load_tokenizer

NEAREST = 60
"""How many lines are kept for each question."""

TOKENS = 128


def nearest(base: Path, questions: Sequence[str], lines: Sequence[str]) -> np.ndarray:
    """Numbers of the lines [questions, at most NEAREST], nearest first, by the ranks of two measures.

    They are cosines of mean embeddings of `base`, a sentence encoder, and of TF-IDF; ranks are fused as first stages of
    retrieval do it (reciprocal rank fusion, k = 60; Cormack, Clarke and Buettcher 2009).
    """
    words = TfidfVectorizer(stop_words="english", sublinear_tf=True).fit(lines)
    by_words = (words.transform(questions) @ words.transform(lines).T).toarray()
    by_meaning = embeddings(base, questions) @ embeddings(base, lines).T
    fused = sum(1 / (60 + _ranks(cosines)) for cosines in (by_words, by_meaning))
    return np.argsort(-fused, axis=1, kind="stable")[:, :NEAREST]


def _ranks(cosines: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(-cosines, axis=1, kind="stable"), axis=1, kind="stable") + 1


@torch.inference_mode()
def embeddings(base: Path, texts: Sequence[str]) -> np.ndarray:
    """Unit vectors [texts, width]: the mean over the tokens of a text."""
    tokenizer, model = load_tokenizer(base), BertModel.from_pretrained(base, dtype="float32").eval()
    found = np.zeros((len(texts), model.config.hidden_size), np.float32)
    for batch in batches(encode(tokenizer, texts, TOKENS), tokens=8192):
        hidden = model(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
        mask = batch.mask.unsqueeze(-1)
        found[batch.positions] = functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1).numpy()
    return found
