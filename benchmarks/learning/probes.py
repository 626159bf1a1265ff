"""How well a factor can be predicted from fixed features: by the votes of nearest neighbours, and by a linear map.

Wu et al. 2018 and DINO (Caron et al. 2021) vote among k neighbours with weights exp(cosine / temperature); the linear
probe is multinomial logistic regression,

    mean over N of cross_entropy(x W + b, y) + l2 / 2 |W|^2,

whose minimum is unique, so that the result depends on the features and not on the optimiser. All features are first
standardised with the mean and standard deviation of the training clips, so that their units do not matter.
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
_CHOOSING_SHARE = 0.2  # of the training clips, held out while l2 is chosen
_LEAST_DEVIATION = 1e-6
_MOST_ITERATIONS, _GRADIENT_TOLERANCE = 200, 1e-5  # of the fit


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of both probes on test clips."""

    knn: float
    linear: float


@dataclass(frozen=True)
class LabelledFeatures:
    """Features of clips, and the class of each."""

    features_ND: Tensor
    labels_N: Tensor


@dataclass(frozen=True)
class LinearMap:
    """A fitted probe."""

    weight_DK: Tensor
    bias_K: Tensor

    def logits(self, features_MD: Tensor) -> Tensor:
        """Return the logits of the classes."""
        return features_MD @ self.weight_DK + self.bias_K


def probe(train: LabelledFeatures, tests: Mapping[str, LabelledFeatures], classes: int) -> dict[str, Accuracy]:
    """Return the accuracy of both probes on each set of test clips; l2 is chosen on training clips alone."""
    scale = Standardiser.of(train.features_ND)
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
class Standardiser:
    """The mean and standard deviation of the features of the training clips; constant features become zero."""

    mean_D: Tensor
    deviation_D: Tensor

    @classmethod
    def of(cls, train_ND: Tensor) -> Standardiser:
        """Compute both from the features of the training clips."""
        return cls(train_ND.double().mean(dim=0), train_ND.double().std(dim=0).clamp_min(_LEAST_DEVIATION))

    def __call__(self, features_ND: Tensor) -> Tensor:
        """Subtract the mean and divide by the standard deviation, in float64, so that the fit converges."""
        return (features_ND.double() - self.mean_D) / self.deviation_D


def vote(
    train_ND: Tensor,
    labels_N: Tensor,
    test_MD: Tensor,
    classes: int,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Tensor:
    """Predict for each test clip the class for which its nearest training clips vote."""
    cosine_MN = functional.normalize(test_MD, dim=1) @ functional.normalize(train_ND, dim=1).T
    nearest = cosine_MN.topk(min(neighbours, len(train_ND)), dim=1)
    votes_MK = test_MD.new_zeros(len(test_MD), classes)
    votes_MK.scatter_add_(1, labels_N[nearest.indices], (nearest.values / temperature).exp())
    return votes_MK.argmax(dim=1)


def fit_linear(
    features_ND: Tensor, labels_N: Tensor, classes: int, l2: float, start: LinearMap | None = None
) -> LinearMap:
    """Find the minimum over all clips; the bias is not penalised. A good `start` only saves time."""
    weight_DK = start.weight_DK.clone() if start else features_ND.new_zeros(features_ND.shape[1], classes)
    bias_K = start.bias_K.clone() if start else features_ND.new_zeros(classes)
    parameters = [weight_DK.requires_grad_(), bias_K.requires_grad_()]
    optimiser = torch.optim.LBFGS(
        parameters,
        max_iter=_MOST_ITERATIONS,
        tolerance_grad=_GRADIENT_TOLERANCE,
        history_size=20,
        line_search_fn="strong_wolfe",
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
    held_out = max(1, int(len(features_ND) * _CHOOSING_SHARE))
    validation, rest = order_N[:held_out], order_N[held_out:]
    fitted = None
    losses = {}
    for l2 in sorted(strengths, reverse=True):  # a strong penalty converges at once and is a good start for the next
        fitted = fit_linear(features_ND[rest], labels_N[rest], classes, l2, fitted)
        losses[l2] = float(functional.cross_entropy(fitted.logits(features_ND[validation]), labels_N[validation]))
    return min(losses, key=lambda l2: losses[l2])


def share_equal(found_M: Tensor, truth_M: Tensor) -> float:
    """Return the share of equal entries, the accuracy."""
    return float((found_M == truth_M).double().mean())
