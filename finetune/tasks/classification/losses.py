"""The losses of classification: cross-entropy, and for independent classes binary cross-entropy, focal and asymmetric.

Focal: Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 5. Asymmetric: Ridnik et al. 2021, "Asymmetric
Loss For Multi-Label Classification", equations 4 to 7. A target between 0 and 1, as smoothing and blending produce,
weights the positive and the negative term accordingly. Legend: B samples, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from trichord.core.registry import load
from trichord.finetune.tasks.classification.loss_specs import (
    AsymmetricSpec,
    BinarySpec,
    CrossEntropySpec,
    FocalSpec,
    LossSpec,
)


def classification_loss(spec: LossSpec, logits_BK: Tensor, targets_BK: Tensor, pos_weight_K: Tensor) -> Tensor:
    """Return the mean loss over samples, and for independent classes over classes as well."""
    loss: Tensor = load(spec.computes)(spec, logits_BK, targets_BK, pos_weight_K)
    return loss


def cross_entropy(spec: CrossEntropySpec, logits_BK: Tensor, targets_BK: Tensor, pos_weight_K: Tensor) -> Tensor:
    """Return the cross-entropy of one class per clip."""
    return functional.cross_entropy(logits_BK, targets_BK)


def binary(spec: BinarySpec, logits_BK: Tensor, targets_BK: Tensor, pos_weight_K: Tensor) -> Tensor:
    """Return the binary cross-entropy, with weighted positives."""
    return functional.binary_cross_entropy_with_logits(logits_BK, targets_BK, pos_weight=pos_weight_K)


def focal_loss(spec: FocalSpec, logits_BK: Tensor, targets_BK: Tensor, pos_weight_K: Tensor) -> Tensor:
    """Return the mean of `focal`."""
    return focal(spec, logits_BK, targets_BK).mean()


def asymmetric_loss(spec: AsymmetricSpec, logits_BK: Tensor, targets_BK: Tensor, pos_weight_K: Tensor) -> Tensor:
    """Return the mean of `asymmetric`."""
    return asymmetric(spec, logits_BK, targets_BK).mean()


def focal(spec: FocalSpec, logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
    """Return the loss of each sample and class, BK."""
    yes_BK = logits_BK.sigmoid()
    of_yes_BK = -((1 - yes_BK) ** spec.gamma) * functional.logsigmoid(logits_BK)
    of_no_BK = -(yes_BK**spec.gamma) * functional.logsigmoid(-logits_BK)
    weigh_yes, weigh_no = (1.0, 1.0) if spec.alpha is None else (spec.alpha, 1 - spec.alpha)
    return weigh_yes * targets_BK * of_yes_BK + weigh_no * (1 - targets_BK) * of_no_BK


def asymmetric(spec: AsymmetricSpec, logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
    """Return the loss of each sample and class, BK."""
    yes_BK = logits_BK.sigmoid()
    of_yes_BK = -((1 - yes_BK) ** spec.gamma_yes) * functional.logsigmoid(logits_BK)
    shifted_BK = (yes_BK - spec.margin).clamp_min(0)
    # Without a margin, logsigmoid is the exact form; with one, 1 - shifted never falls below the margin.
    log_no_BK = functional.logsigmoid(-logits_BK) if spec.margin == 0 else torch.log1p(-shifted_BK)
    of_no_BK = -(shifted_BK**spec.gamma_no) * log_no_BK
    return targets_BK * of_yes_BK + (1 - targets_BK) * of_no_BK
