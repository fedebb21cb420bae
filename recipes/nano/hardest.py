"""Of many negatives, those that the model itself takes for answers: it learns the most from these."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from groups import Group

NEGATIVES = 8
"""How many negatives a question is trained with at most."""

AT_RANDOM = 2
"""How many of them are drawn from the rest, as the hardest alone do not show what is easy."""


def too_many(group: Group) -> bool:
    """Whether the group has more negatives than are trained with."""
    return sum(label <= 0.5 for label in group.labels) > NEGATIVES


def hardest(group: Group, scores: Sequence[float], counted: Sequence[bool], rng: random.Random) -> Group:
    """The group with all its positives and up to `NEGATIVES` negatives, most of them those with the highest scores.

    scores: one for each document; counted: which of them may be learned from.
    """
    positives = [i for i, label in enumerate(group.labels) if label > 0.5]
    negatives = [i for i, label in enumerate(group.labels) if label <= 0.5 and counted[i]]
    negatives.sort(key=lambda i: -scores[i])
    hard, rest = negatives[: NEGATIVES - AT_RANDOM], negatives[NEGATIVES - AT_RANDOM :]
    taken = positives + hard + rng.sample(rest, min(len(rest), AT_RANDOM))
    return replace(
        group,
        documents=tuple(group.documents[i] for i in taken),
        labels=tuple(group.labels[i] for i in taken),
    )
