"""The arithmetic of the int8 artifact, simulated in training.

Linear layers: activations per token in 8 bits around zero (step = largest magnitude / 127), weights per output
channel, both symmetric. Embedding tables: one step per row. Rounding passes gradients straight through.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

LEVELS = 127


def fake_int8(x: Tensor) -> Tensor:
    """`x` as it comes out of 8 bits with one step per slice of the last axis; the gradient is that of x itself."""
    values = x.detach().float()
    step = values.abs().amax(dim=-1, keepdim=True).clamp(min=1e-30) / LEVELS
    rounded = (values / step).round_().mul_(step)
    return x + (rounded.to(x.dtype) - x.detach())


class Int8Linear(nn.Linear):
    """A linear layer as the int8 artifact computes it."""

    def forward(self, x: Tensor) -> Tensor:
        """x [.., in] -> [.., out]."""
        return functional.linear(fake_int8(x), fake_int8(self.weight), self.bias)


class Int8Embedding(nn.Embedding):
    """A table whose rows are stored in 8 bits."""

    def forward(self, ids: Tensor) -> Tensor:
        """ids [..] -> rows [.., width]."""
        return fake_int8(super().forward(ids))


def simulate_int8(model: nn.Module) -> nn.Module:
    """Give every linear layer and word table of `model` its int8 form, in place; the parameters stay the same."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Int8Linear
        elif type(module) is nn.Embedding:
            module.__class__ = Int8Embedding
    return model


def restore(model: nn.Module) -> nn.Module:
    """Undo `simulate_int8`."""
    for module in model.modules():
        if type(module) is Int8Linear:
            module.__class__ = nn.Linear
        elif type(module) is Int8Embedding:
            module.__class__ = nn.Embedding
    return model


@torch.no_grad()
def rounding_error(weight: Tensor) -> float:
    """||W - stored W|| / ||W|| of a matrix."""
    return float((fake_int8(weight) - weight).norm() / weight.norm())
