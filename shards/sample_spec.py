"""What is made of each sample of a batch, as settings: its views, its sound, which of its captions."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trichord.shards.audio.sound_specs import SoundSpec
from trichord.shards.transforms.view_specs import ViewsSpec


class SampleSpec(BaseModel):
    """What is made of each sample; the same for all, so that a batch has one shape."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    views: ViewsSpec
    sound: SoundSpec | None = None
    sound_seconds: float | None = Field(default=None, gt=0)  # around a clip's middle; None: that clip's stretch
    sound_of: Literal["first_clip", "each_clip"] = "first_clip"
    caption: Literal["first", "random", "all"] = "random"  # all: each on a line of its own
    labels: Literal["video", "clips"] = "video"  # clips: those of the intervals that overlap one of the clips
    timeline: bool = False  # whether an example says where its clips lie, and what is said of the video when
    decoder: Literal["planned", "torchcodec"] = "planned"  # of pixels: the same ones if both FFmpegs convert alike
    is_training: bool = True  # SpecAugment is for training only

    @model_validator(mode="after")
    def _sound_has_one_length(self) -> SampleSpec:
        if self.sound is not None and self.sound.frames is None and self.sound_seconds is None:
            raise ValueError(
                "a batch needs sounds of one length: give sound_seconds, or frames in the sound's settings"
            )
        return self
