"""Interpolated weights equal the formula, tensor by tensor, and both ends are exact."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from trichord.core.errors import UserError
from trichord.finetune.zeroshot.evaluate import WeightInterpolation


class Counted(nn.Module):
    """Weights, and a buffer that counts batches."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.linear = nn.Linear(4, width)
        self.norm = nn.BatchNorm1d(width)


def test_weights_are_interpolated_for_any_order_of_alphas() -> None:
    torch.manual_seed(0)
    before, after = Counted(), Counted()
    for number, model in enumerate((before, after)):
        model.norm(torch.randn(8, 5) + number)
    after.norm(torch.randn(8, 5))
    model = copy.deepcopy(after)
    between = WeightInterpolation(model, before.state_dict())
    for alpha in (0.5, 0.0, 1.0, 0.3):
        between.go_to(alpha)
        for name, tensor in model.state_dict().items():
            a, b = before.state_dict()[name], after.state_dict()[name]
            if tensor.is_floating_point():
                expected = (1 - alpha) * a.double() + alpha * b.double()
                torch.testing.assert_close(tensor.double(), expected, atol=1e-7, rtol=1e-6)
                assert alpha not in (0.0, 1.0) or torch.equal(tensor, a if alpha == 0 else b)
            else:
                assert int(tensor) == int(b) == 2


def test_weights_of_another_shape_are_refused() -> None:
    with pytest.raises(UserError, match=r"linear\.bias, linear\.weight, norm.* of another shape"):
        WeightInterpolation(Counted(), Counted(6).state_dict())
    with pytest.raises(UserError, match=r"extra only in one of them"):
        WeightInterpolation(Counted(), {**Counted().state_dict(), "extra": torch.zeros(1)})
