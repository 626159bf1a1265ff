"""How well a factor can be read off fixed features: by the nearest neighbours' votes, and by a linear map.

Wu et al. 2018 and DINO (Caron et al. 2021) vote among k neighbours with weights exp(cosine / temperature); the linear
probe is multinomial logistic regression,

    mean over N of cross_entropy(x W + b, y) + l2 / 2 |W|^2,

whose minimum is unique, so that it says something of the features and nothing of how it was found. Features of any
origin are standardised first with the training clips' mean and deviation, so that no feature counts for its unit.
Legend: N training clips, M test clips, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

NEIGHBOURS = 20
TEMPERATURE = 0.07
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
_CHOOSING_SHARE = 0.2  # of the training clips, kept aside while l2 is chosen
_LEAST_DEVIATION = 1e-6
_MOST_ROUNDS, _SETTLED = 200, 1e-5  # of the fit, and the largest slope that ends it


@dataclass(frozen=True)
class Accuracy:
    """Shares of test clips that were told right."""

    knn: float
    linear: float


@dataclass(frozen=True)
class Known:
    """Features of clips, and the class of each."""

    features_ND: Tensor
    labels_N: Tensor


@dataclass(frozen=True)
class LinearMap:
    """A fitted probe."""

    weight_DK: Tensor
    bias_K: Tensor

    def logits(self, features_MD: Tensor) -> Tensor:
        """Give what speaks for each class."""
        return features_MD @ self.weight_DK + self.bias_K


def probe(train: Known, tests: Mapping[str, Known], classes: int) -> dict[str, Accuracy]:
    """Measure both ways what features know, on several sets of test clips; these decide nothing."""
    scale = Standard.of(train.features_ND)
    train_ND = scale(train.features_ND)
    fitted = fit_linear(train_ND, train.labels_N, classes, choose_l2(train_ND, train.labels_N, classes))
    found = {}
    for name, test in tests.items():
        test_MD = scale(test.features_ND)
        voted_M = vote(train_ND, train.labels_N, test_MD, classes)
        found[name] = Accuracy(
            share_equal(voted_M, test.labels_N), share_equal(fitted.logits(test_MD).argmax(dim=1), test.labels_N)
        )
    return found


@dataclass(frozen=True)
class Standard:
    """Mean and deviation of the training clips' features; what never changes says nothing."""

    mean_D: Tensor
    deviation_D: Tensor

    @classmethod
    def of(cls, train_ND: Tensor) -> Standard:
        """Take them."""
        return cls(train_ND.double().mean(dim=0), train_ND.double().std(dim=0).clamp_min(_LEAST_DEVIATION))

    def __call__(self, features_ND: Tensor) -> Tensor:
        """Take the mean off and divide by the deviation; in float64, for the fit to settle."""
        return (features_ND.double() - self.mean_D) / self.deviation_D


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


def fit_linear(
    features_ND: Tensor, labels_N: Tensor, classes: int, l2: float, start: LinearMap | None = None
) -> LinearMap:
    """Find the minimum with all clips at once; the bias is not held small. A start nearby only saves time."""
    weight_DK = start.weight_DK.clone() if start else features_ND.new_zeros(features_ND.shape[1], classes)
    bias_K = start.bias_K.clone() if start else features_ND.new_zeros(classes)
    parameters = [weight_DK.requires_grad_(), bias_K.requires_grad_()]
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=_MOST_ROUNDS, tolerance_grad=_SETTLED, history_size=20, line_search_fn="strong_wolfe"
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
    fitted = None
    surprises = {}
    for l2 in sorted(strengths, reverse=True):  # what is held small is found at once, and leads on to what is not
        fitted = fit_linear(features_ND[rest], labels_N[rest], classes, l2, fitted)
        surprises[l2] = float(functional.cross_entropy(fitted.logits(features_ND[aside]), labels_N[aside]))
    return min(surprises, key=lambda l2: surprises[l2])


def share_equal(found_M: Tensor, truth_M: Tensor) -> float:
    """Give the accuracy."""
    return float((found_M == truth_M).double().mean())
