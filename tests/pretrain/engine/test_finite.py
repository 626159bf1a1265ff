"""Specification of the guard that stands between gradients and the update."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trichord.pretrain.engine.finite import FiniteGuard


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_each_gradient_that_is_not_finite_is_named_once_though_a_later_part_is_sound(broken: float) -> None:
    first, second = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    guard = FiniteGuard({"first": first, "second": second})
    for factor in (1.0, broken, broken, 2.0):  # parts of one step, whose gradients accumulate
        loss = (first * torch.tensor([1.0, factor, 1.0])).sum() * 0.5 + second.sum()
        guard.add_loss(loss)
        loss.backward()
    assert guard.verdict() == ["the loss", "the gradient of first"]
    assert guard.verdict() == []
    second.sum().backward()
    assert guard.verdict() == []
