"""From a whole recipe to its objective."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pretrain.backbones.audio_build import build_audio_backbone
from pretrain.backbones.build import build_backbone
from pretrain.objective import Objective
from pretrain.objectives.av_prototypes import AvPrototypes
from pretrain.objectives.av_spec import AvPrototypesSpec
from pretrain.objectives.svt import Svt

if TYPE_CHECKING:
    from pretrain.config import RunConfig


def build_objective(config: RunConfig) -> Objective:
    """Build the objective and its backbones with fresh weights drawn from torch's generator."""
    video = build_backbone(config.backbone)
    if isinstance(config.objective, AvPrototypesSpec):
        assert config.audio_backbone is not None  # the config was checked
        return AvPrototypes(config.objective, video, build_audio_backbone(config.audio_backbone), config.stream())
    return Svt(config.objective, video, config.steps)
