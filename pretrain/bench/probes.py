"""How well a factor can be read off fixed features: by the nearest neighbours' votes, and by a linear map.

Wu et al. 2018 and DINO (Caron et al. 2021) vote among k neighbours with weights exp(cosine / temperature); the linear
probe is multinomial logistic regression,

    mean over N of cross_entropy(x W + b, y) + l2 / 2 |W|^2,

whose minimum is unique, so that it says something of the features and nothing of how it was found. Features of any
origin are standardised first with the training clips' mean and deviation, so that no feature counts for its unit.
Legend: N training clips, M test clips, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

NEIGHBOURS = 20
TEMPERATURE = 0.07
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_CHOOSING_SHARE = 0.2  # of the training clips, kept aside while l2 is chosen
_LEAST_DEVIATION = 1e-6


@dataclass(frozen=True)
class Accuracy:
    """Shares of test clips that were told right."""

    knn: float
    linear: float


@dataclass(frozen=True)
class LinearMap:
    """A fitted probe."""

    weight_DK: Tensor
    bias_K: Tensor

    def logits(self, features_MD: Tensor) -> Tensor:
        """Give what speaks for each class."""
        return features_MD @ self.weight_DK + self.bias_K


def probe(train_ND: Tensor, labels_N: Tensor, test_MD: Tensor, truth_M: Tensor) -> Accuracy:
    """Measure both ways what features know; the test clips decide nothing."""
    train_ND, test_MD = standardise(train_ND, test_MD)
    classes = int(max(labels_N.max(), truth_M.max())) + 1
    voted_M = vote(train_ND, labels_N, test_MD, classes)
    fitted = fit_linear(train_ND, labels_N, classes, choose_l2(train_ND, labels_N, classes))
    return Accuracy(share_equal(voted_M, truth_M), share_equal(fitted.logits(test_MD).argmax(dim=1), truth_M))


def standardise(train_ND: Tensor, test_MD: Tensor) -> tuple[Tensor, Tensor]:
    """Take off the training clips' mean and divide by their deviation; float64, for the fit to settle."""
    train_ND, test_MD = train_ND.double(), test_MD.double()
    mean_D, deviation_D = train_ND.mean(dim=0), train_ND.std(dim=0).clamp_min(_LEAST_DEVIATION)
    return (train_ND - mean_D) / deviation_D, (test_MD - mean_D) / deviation_D


def vote(
    train_ND: Tensor,
    labels_N: Tensor,
    test_MD: Tensor,
    classes: int,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Tensor:
    """Give each test clip the class for which its nearest training clips vote."""
    cosine_MN = functional.normalize(test_MD, dim=1) @ functional.normalize(train_ND, dim=1).T
    nearest = cosine_MN.topk(min(neighbours, len(train_ND)), dim=1)
    votes_MK = test_MD.new_zeros(len(test_MD), classes)
    votes_MK.scatter_add_(1, labels_N[nearest.indices], (nearest.values / temperature).exp())
    return votes_MK.argmax(dim=1)


def fit_linear(features_ND: Tensor, labels_N: Tensor, classes: int, l2: float) -> LinearMap:
    """Find the minimum with all clips at once; the bias is not held small."""
    weight_DK = features_ND.new_zeros(features_ND.shape[1], classes, requires_grad=True)
    bias_K = features_ND.new_zeros(classes, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight_DK, bias_K], max_iter=500, tolerance_grad=1e-6, history_size=20, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = functional.cross_entropy(features_ND @ weight_DK + bias_K, labels_N)
        value = value + l2 / 2 * weight_DK.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return LinearMap(weight_DK.detach(), bias_K.detach())


def choose_l2(features_ND: Tensor, labels_N: Tensor, classes: int, strengths: Sequence[float] = STRENGTHS) -> float:
    """Choose the strength with the lowest cross-entropy on a fifth of the training clips, fitted on the others."""
    order_N = torch.randperm(len(features_ND), generator=torch.Generator().manual_seed(0))
    kept_aside = max(1, int(len(features_ND) * _CHOOSING_SHARE))
    aside, rest = order_N[:kept_aside], order_N[kept_aside:]

    def surprise(l2: float) -> float:
        fitted = fit_linear(features_ND[rest], labels_N[rest], classes, l2)
        return float(functional.cross_entropy(fitted.logits(features_ND[aside]), labels_N[aside]))

    return min(strengths, key=surprise)


def share_equal(found_M: Tensor, truth_M: Tensor) -> float:
    """Give the accuracy."""
    return float((found_M == truth_M).double().mean())
