"""The check for non-finite gradients before the update."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trichord.pretrain.engine.finite import FiniteGuard


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_each_non_finite_gradient_is_named_once_even_if_a_later_part_is_finite(broken: float) -> None:
    first, second = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    guard = FiniteGuard({"first": first, "second": second})
    for factor in (1.0, broken, broken, 2.0):  # parts of one step, whose gradients are accumulated
        loss = (first * torch.tensor([1.0, factor, 1.0])).sum() * 0.5 + second.sum()
        guard.add_loss(loss)
        loss.backward()
    assert guard.verdict() == ["the loss", "the gradient of first"]
    assert guard.verdict() == []
    second.sum().backward()
    assert guard.verdict() == []
