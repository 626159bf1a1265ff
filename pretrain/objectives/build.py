"""From a whole recipe to its objective."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pretrain.backbones.build import build_backbone
from pretrain.objective import Objective
from pretrain.objectives.svt import Svt

if TYPE_CHECKING:
    from pretrain.config import RunConfig


def build_objective(config: RunConfig) -> Objective:
    """Build the objective and its backbones with fresh weights drawn from torch's generator."""
    return Svt(config.objective, build_backbone(config.backbone), config.steps)
