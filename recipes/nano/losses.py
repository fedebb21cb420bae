"""InfoNCE over the documents of a query, and pointwise binary cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def info_nce(logits: Tensor, labels: Tensor) -> Tensor:
    """-log softmax of each positive against the negatives of its group, averaged over the positives.

    Positives of one group do not compete with each other. logits, labels: [documents of one group].
    """
    positives, negatives = logits[labels > 0.5], logits[labels <= 0.5]
    if not len(positives) or not len(negatives):
        return logits.sum() * 0
    rest = torch.logsumexp(negatives, dim=0).expand_as(positives)
    return (torch.logaddexp(positives, rest) - positives).mean()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of the documents of one group, in which positives and negatives weigh the same."""
    each = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    positive, negative = labels.sum().clamp(min=1), (1 - labels).sum().clamp(min=1)
    return (each * torch.where(labels > 0.5, 0.5 / positive, 0.5 / negative)).sum()


def kept(logits: Tensor, labels: Tensor, sizes: Sequence[int], margins: Sequence[float]) -> Tensor:
    """Which documents count: all but negatives that score above the best positive by over the margin of their group.

    Such negatives are likely to answer too, as the data takes its negatives from BM25 and not from people.
    """
    counted = []
    for scores, targets, margin in zip(logits.split(list(sizes)), labels.split(list(sizes)), margins, strict=True):
        best = scores[targets > 0.5].max()
        counted.append((targets > 0.5) | (scores <= best + margin))
    return torch.cat(counted)


def group_loss(
    logits: Tensor, labels: Tensor, sizes: Sequence[int], counted: Tensor, pointwise: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of a step, and its two parts: contrast + `pointwise` * cross-entropy, means over groups.

    logits, labels, counted: [documents of all groups, in order]; sizes: how many each group has.
    """
    parts = [each.split(list(sizes)) for each in (logits, labels, counted)]
    groups = [(scores[used], targets[used]) for scores, targets, used in zip(*parts, strict=True)]
    contrast = torch.stack([info_nce(*group) for group in groups]).mean()
    entropy = torch.stack([cross_entropy(*group) for group in groups]).mean()
    return contrast + pointwise * entropy, contrast.detach(), entropy.detach()
