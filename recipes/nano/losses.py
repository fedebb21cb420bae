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


def group_loss(logits: Tensor, labels: Tensor, sizes: Sequence[int], pointwise: float) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of a step, and its two parts: contrast + `pointwise` * cross-entropy, means over groups.

    logits, labels: [documents of all groups, in order]; sizes: how many each group has. Within a group positives and
    negatives weigh the same in the cross-entropy.
    """
    contrast, entropy = [], []
    for scores, targets in zip(logits.split(list(sizes)), labels.split(list(sizes)), strict=True):
        contrast.append(info_nce(scores, targets))
        each = functional.binary_cross_entropy_with_logits(scores, targets, reduction="none")
        weights = torch.where(targets > 0.5, 0.5 / targets.sum().clamp(min=1), 0.5 / (1 - targets).sum().clamp(min=1))
        entropy.append((each * weights).sum())
    first, second = torch.stack(contrast).mean(), torch.stack(entropy).mean()
    return first + pointwise * second, first.detach(), second.detach()
