"""Losses equal loops over their equations and another library; each falls as predictions improve."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trichord.finetune.tasks.classification.loss_specs import (
    AsymmetricSpec,
    BinarySpec,
    CrossEntropySpec,
    FocalSpec,
    LossSpec,
)
from trichord.finetune.tasks.classification.losses import classification_loss

LOGITS_BK = torch.tensor([[2.0, -1.0, 0.3, -4.0], [0.1, 5.0, -2.5, -0.2], [-1.5, 0.0, 1.2, 3.0]])
TRUTHS_BK = torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 0, 1]])
WEIGHT_K = torch.tensor([3.0, 1.0, 0.5, 2.0])


def mean_of_loop(targets_BK: Tensor, of_yes: list[list[float]], of_no: list[list[float]]) -> float:
    total = 0.0
    for row, targets_K in enumerate(targets_BK.tolist()):
        for label, target in enumerate(targets_K):
            total += (target * of_yes[row][label] + (1 - target) * of_no[row][label]) / targets_BK.numel()
    return total


def yes_of() -> list[list[float]]:
    return [[1 / (1 + math.exp(-each)) for each in row] for row in LOGITS_BK.tolist()]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_binary_loss_weights_positives(smoothing: float) -> None:
    targets_BK = TRUTHS_BK * (1 - smoothing) + smoothing / 2
    of_yes = [[-w * math.log(p) for p, w in zip(row, WEIGHT_K.tolist(), strict=True)] for row in yes_of()]
    of_no = [[-math.log(1 - p) for p in row] for row in yes_of()]
    found = classification_loss(BinarySpec(), LOGITS_BK, targets_BK, WEIGHT_K)
    assert found.item() == pytest.approx(mean_of_loop(targets_BK, of_yes, of_no), rel=1e-5)


@pytest.mark.parametrize("alpha", [0.25, None])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_loss_equals_torchvision(alpha: float | None, gamma: float) -> None:
    from torchvision.ops import sigmoid_focal_loss  # it is importable after `shards`

    expected = sigmoid_focal_loss(LOGITS_BK, TRUTHS_BK, -1 if alpha is None else alpha, gamma, reduction="mean")
    found = classification_loss(FocalSpec(alpha=alpha, gamma=gamma), LOGITS_BK, TRUTHS_BK, WEIGHT_K)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("spec", [AsymmetricSpec(), AsymmetricSpec(gamma_yes=1.0, gamma_no=2.0, margin=0.0)])
def test_asymmetric_loss_equals_the_equations_of_the_paper(spec: AsymmetricSpec, smoothing: float) -> None:
    targets_BK = TRUTHS_BK * (1 - smoothing) + smoothing / 2
    of_yes = [[-((1 - p) ** spec.gamma_yes) * math.log(p) for p in row] for row in yes_of()]
    shifted = [[max(p - spec.margin, 0.0) for p in row] for row in yes_of()]
    of_no = [[-(p**spec.gamma_no) * math.log(1 - p) for p in row] for row in shifted]
    found = classification_loss(spec, LOGITS_BK, targets_BK, WEIGHT_K)
    assert found.item() == pytest.approx(mean_of_loop(targets_BK, of_yes, of_no), rel=1e-5)
    easy_no = torch.full((1, 1), -4.0, requires_grad=True)  # its probability is below the margin
    classification_loss(AsymmetricSpec(), easy_no, torch.zeros(1, 1), WEIGHT_K[:1]).backward()
    assert easy_no.grad is not None and easy_no.grad.item() == 0.0


@pytest.mark.parametrize("spec", [CrossEntropySpec(), BinarySpec(), FocalSpec(), AsymmetricSpec()])
def test_losses_stay_finite_and_push_towards_the_truth(spec: LossSpec) -> None:
    logits_BK = torch.tensor([[60.0, -60.0, 60.0, -60.0], [0.4, 0.4, 0.4, 0.4]], requires_grad=True)
    targets_BK = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    loss = classification_loss(spec, logits_BK, targets_BK, torch.ones(4))
    loss.backward()
    assert torch.isfinite(loss) and logits_BK.grad is not None and torch.isfinite(logits_BK.grad).all()
    assert (logits_BK.grad[1, :3] > 0).all() and logits_BK.grad[1, 3] < 0
