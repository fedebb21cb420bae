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


def hardest(group: Group, scores: Sequence[float], forgive: float, rng: random.Random) -> Group:
    """The group with all its positives and `NEGATIVES` negatives, most of them those with the highest scores.

    Negatives that score more than `forgive` above the best positive go first of all: they are likely to answer too.
    scores: one for each document.
    """
    positives = [i for i, label in enumerate(group.labels) if label > 0.5]
    bound = max(scores[i] for i in positives) + forgive
    negatives = [i for i, label in enumerate(group.labels) if label <= 0.5 and scores[i] <= bound]
    negatives.sort(key=lambda i: -scores[i])
    hard, rest = negatives[: NEGATIVES - AT_RANDOM], negatives[NEGATIVES - AT_RANDOM :]
    taken = positives + hard + rng.sample(rest, min(len(rest), AT_RANDOM))
    return replace(
        group,
        documents=tuple(group.documents[i] for i in taken),
        labels=tuple(group.labels[i] for i in taken),
    )
