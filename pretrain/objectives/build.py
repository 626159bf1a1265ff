"""From a whole recipe to its objective."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trichord.pretrain.backbones.audio_build import build_audio_backbone
from trichord.pretrain.backbones.build import build_backbone
from trichord.pretrain.backbones.text_build import build_text_backbone
from trichord.pretrain.objective import Objective
from trichord.pretrain.objectives.av_spec import AvPrototypesSpec
from trichord.pretrain.objectives.svt import Svt
from trichord.pretrain.objectives.video_text import VideoTextObjective
from trichord.pretrain.objectives.video_text_spec import VideoTextSpec
from trichord.shards.viewing.mix import Mixing

if TYPE_CHECKING:
    from trichord.pretrain.config import RunConfig


def build_objective(config: RunConfig) -> Objective:
    """Build the objective and its backbones with fresh weights drawn from torch's generator."""
    video = build_backbone(config.backbone)
    audio = None if config.audio_backbone is None else build_audio_backbone(config.audio_backbone)
    if isinstance(config.objective, AvPrototypesSpec):
        from trichord.pretrain.objectives.av_prototypes import (
            AvPrototypes,  # with a reader of shards, late, for searches
        )

        assert audio is not None  # the config was checked
        return AvPrototypes(config.objective, video, audio, config.stream())
    if isinstance(config.objective, VideoTextSpec):
        assert config.text_backbone is not None
        text = build_text_backbone(config.text_backbone)
        mixing = Mixing(config.seed, config.data.batch_size // config.data.lanes)
        return VideoTextObjective(config.objective, video, text, audio, mixing)
    return Svt(config.objective, video, config.steps)
