"""The settings for converting a sample to an example: views, audio, captions and labels."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trichord.shards.audio.sound_specs import SoundSpec
from trichord.shards.record import LabelRule
from trichord.shards.transforms.view_specs import ViewsSpec

Modality = Literal["video", "audio"]


class SampleSpec(BaseModel):
    """The conversion of a sample to an example; the same for all samples, so that a batch has one shape."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    views: ViewsSpec
    sound: SoundSpec | None = None
    sound_seconds: float | None = Field(default=None, gt=0)  # centred on the clip; None: the clip's own interval
    sound_of: Literal["first_clip", "each_clip"] = "first_clip"
    caption: Literal["first", "random", "all"] = "random"  # all: one per line
    labels: Literal["video", "clips"] = "video"  # clips: labels of the intervals that overlap a clip
    label_rule: LabelRule | None = None  # other samples are bad ones; None: labels are not used
    timeline: bool = False  # whether an example holds the times of its clips and the video's annotation
    decoder: Literal["planned", "torchcodec"] = "planned"  # the same pixels if both FFmpegs convert alike
    is_training: bool = True  # SpecAugment is applied in training only

    @model_validator(mode="after")
    def _sound_has_one_length(self) -> SampleSpec:
        if self.sound is not None and self.sound.frames is None and self.sound_seconds is None:
            raise ValueError(
                "all audio of a batch must have one length: give sound_seconds, or frames in the settings of sound"
            )
        return self
