"""How near lines are to a question, by meaning and by words: the nearest are candidates for hard negatives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer
from torch.nn import functional
from transformers import BertModel

from batches import batches, encode
from model import load_tokenizer

TOKENS = 128
STOP_WORDS = [*ENGLISH_STOP_WORDS, "did", "does"]
BLOCK = 256


def nearness(base: Path, questions: Sequence[str], lines: Sequence[str]) -> Iterator[np.ndarray]:
    """The nearness of all lines [lines] to each question.

    The sum of two cosines: of mean embeddings by `base`, a sentence encoder, and of TF-IDF (a convex combination of a
    dense and a lexical score; Bruch, Gai and Ingber 2023).
    """
    words = TfidfVectorizer(stop_words=STOP_WORDS, sublinear_tf=True).fit(lines)
    line_words, line_meanings = words.transform(lines).T, embeddings(base, lines).T
    question_words, question_meanings = words.transform(questions), embeddings(base, questions)
    for start in range(0, len(questions), BLOCK):
        some = slice(start, start + BLOCK)
        yield from (question_words[some] @ line_words).toarray() + question_meanings[some] @ line_meanings


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
