"""Lines in the order of their nearness to a question, by meaning and by words: the nearest are the hard negatives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer
from torch.nn import functional
from transformers import BertModel

from batches import batches, encode
from model import load_tokenizer

TOKENS = 128
STOP_WORDS = [*ENGLISH_STOP_WORDS, "did", "does"]


def nearest(base: Path, questions: Sequence[str], lines: Sequence[str]) -> Iterator[np.ndarray]:
    """The numbers of all lines for each question, from the nearest to the farthest by the ranks of two measures.

    They are cosines of mean embeddings of `base`, a sentence encoder, and of TF-IDF; ranks are fused as first stages of
    retrieval do it (reciprocal rank fusion, k = 60; Cormack, Clarke and Buettcher 2009); ties get the last of their
    ranks.
    """
    words = TfidfVectorizer(stop_words=STOP_WORDS, sublinear_tf=True).fit(lines)
    line_words, line_meanings = words.transform(lines).T, embeddings(base, lines).T
    for question_words, meaning in zip(words.transform(questions), embeddings(base, questions), strict=True):
        cosines = (question_words @ line_words).toarray()[0], meaning @ line_meanings
        fused = sum(1 / (60 + rankdata(-each, "max")) for each in cosines)
        yield np.argsort(-fused, kind="stable")


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
