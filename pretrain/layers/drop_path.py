"""Stochastic depth (Huang et al. 2016): a branch is left out of some rows, and those that keep it count for more."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Draws which rows keep a branch; the mean over draws is the branch itself."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    @property
    def is_active(self) -> bool:
        """Say whether anything is dropped now."""
        return self.training and self.rate > 0

    def scales(self, like: Tensor, *rows: int) -> Tensor:
        """Draw for each row 0, or with probability 1 - rate 1 / (1 - rate)."""
        kept = torch.rand(rows, device=like.device) >= self.rate
        return kept.to(like.dtype) / (1 - self.rate)

    def forward(self, branch: Tensor) -> Tensor:
        """Drop whole rows of the first axis."""
        if not self.is_active:
            return branch
        return branch * self.scales(branch, len(branch)).view(-1, *(1,) * (branch.ndim - 1))

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


def growing_rates(last: float, depth: int) -> list[float]:
    """Give each block its rate, from 0 in the first to `last` in equal steps."""
    return [last * number / max(depth - 1, 1) for number in range(depth)]
