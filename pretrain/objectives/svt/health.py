"""What betrays a self-distillation that learns nothing: a teacher that says everything, or the same, of every clip.

Legend: B samples, G = 2 teacher views, K prototypes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trichord.pretrain.objectives.base import HealthRule


@torch.no_grad()
def svt_health(cross_entropy: Tensor, targets_GBK: Tensor, centre_K: Tensor) -> dict[str, Tensor]:
    """Give entropies and the mean cross-entropy as shares of ln K, what a uniform distribution has."""
    most = math.log(targets_GBK.shape[-1])
    figures = {
        "loss_over_ln_k": cross_entropy / most,
        "teacher_entropy": torch.special.entr(targets_GBK).sum(dim=-1).mean() / most,
        "centre_norm": torch.linalg.vector_norm(centre_K),
    }
    if targets_GBK.shape[1] > 1:  # of one clip, a single prototype is no collapse
        figures["teacher_mean_entropy"] = torch.special.entr(targets_GBK.mean(dim=(0, 1))).sum() / most
    return figures


def svt_health_rules(from_step: int) -> tuple[HealthRule, ...]:
    """Give the rules; in the beginning all clips look alike to any network, so they hold from a step on."""
    sharpen = "Try a lower teacher_temperature, a centre_momentum nearer 1, or a lower learning rate."
    return (
        HealthRule(
            figure="teacher_entropy",
            side="above",
            limit=0.995,
            from_step=from_step,
            advice="The teacher spreads its answer evenly over all prototypes, so it teaches nothing (collapse to "
            f"uniform). {sharpen}",
        ),
        HealthRule(
            figure="loss_over_ln_k",
            side="above",
            limit=0.995,
            from_step=from_step,
            advice="The loss is pinned at ln K, that of a student that answers evenly (collapse to uniform, or a "
            f"learning rate too high to learn). {sharpen}",
        ),
        HealthRule(
            figure="teacher_mean_entropy",
            side="below",
            limit=0.02,
            from_step=from_step,
            advice="The teacher gives every clip the same prototype (collapse to one). Try a centre_momentum further "
            "from 1 so that the centre keeps up, a higher teacher_temperature, or a lower learning rate.",
        ),
    )
