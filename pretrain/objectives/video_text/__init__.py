"""What a recipe says of video-text learning; read without torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from trichord.pretrain.objectives.spec import ObjectiveSpec
from trichord.shards.audio.sound_specs import SoundSpec
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.transforms.clip_specs import ClipSpec, Segments
from trichord.shards.transforms.view_specs import MixSpec, RandomResizedCrop, ViewSpec, ViewsSpec


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassTexts(_Spec):
    """Each video against the texts of all classes, softmax over them: X-CLIP's loss (Ni et al. 2022, section 3.1)."""

    names: tuple[str, ...] = Field(min_length=1)  # of the classes by number; left out, they are taken from the shards
    prompt: str = "{}"  # around a class's name; X-CLIP trains with the bare name
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    mix: MixSpec | None = None  # mixup and CutMix
    weight: PositiveFloat = 1.0


class Captions(_Spec):
    """Each video against the captions of the global batch."""

    loss: Literal["softmax", "sigmoid"] = "softmax"  # CLIP's (Radford et al. 2021) or SigLIP's (Zhai et al. 2023)
    # gathered: every rank holds all ranks' vectors; ring: they go round, and a rank holds two foreign blocks at most
    form: Literal["gathered", "ring"] = "gathered"
    weight: PositiveFloat = 1.0


class VideoTextSpec(ObjectiveSpec):
    """Videos and texts, and sounds as well, in one space: by the texts of classes, by captions, or both in one run.

    A sample takes part in what it has: labels, a caption, sound.
    """

    builds: ClassVar[str] = "trichord.pretrain.objectives.video_text.objective:VideoTextObjective.of_run"
    reads_text: ClassVar[bool] = True

    kind: Literal["video_text"] = "video_text"
    clips: ClipSpec = Segments(frames=8)
    view: ViewSpec = ViewSpec(crop=RandomResizedCrop(size=224, scale=(0.4, 1.0)), flip_probability=0.5)
    sound: SoundSpec | None = None
    sound_seconds: PositiveFloat | None = None  # around the clip's middle; none: the clip's own stretch
    classes: ClassTexts | None = None
    captions: Captions | None = Captions()
    audio_text_weight: NonNegativeFloat = 1.0  # of contrast between sounds and captions, where there is sound
    audio_video_weight: NonNegativeFloat = 1.0  # of contrast between sounds and videos
    joint_dim: PositiveInt | None = None  # of the space; none: the text encoder's
    prompts: bool = False  # X-CLIP's video-specific prompts: what a video shows is added to the texts of classes
    frozen_text: bool = False  # the text encoder stays as it is, and vectors of classes are made once
    scale: PositiveFloat = 1 / 0.07  # of cosines, at first; SigLIP begins with 10
    bias: float = -10.0  # of the sigmoid loss, at first
    learn_scale: bool = True

    @model_validator(mode="after")
    def _is_possible(self) -> VideoTextSpec:
        if self.clips.clip_count != 1 or self.view.crop.count > 1:
            raise ValueError("clips and view: training takes one view of each video, found several")
        if self.classes is None and self.captions is None:
            raise ValueError("nothing is learnt: classes and captions are both null")
        if self.prompts and self.classes is None:
            raise ValueError("prompts change texts of classes, and classes is null: set prompts=false, or give classes")
        if self.classes is not None and self.classes.prompt.count("{}") != 1:
            raise ValueError(f"classes.prompt={self.classes.prompt!r}: expected one {{}}, where the name goes")
        if self.classes is not None and self.classes.mix is not None and (self.captions or self.sound):
            raise ValueError("classes.mix blends pixels, and captions and sounds cannot be blended: set it to null")
        if self.sound is not None and self.captions is None and not self.audio_video_weight:
            raise ValueError("sound is heard in vain: captions is null and audio_video_weight is 0")
        self.sample_spec()
        return self

    @property
    def parts(self) -> tuple[str, ...]:
        """The networks in a checkpoint, first the one to take away."""
        return ("video",) if self.sound is None else ("video", "audio")

    def sample_spec(self) -> SampleSpec:
        """Say what a sample must bring."""
        return SampleSpec(
            views=ViewsSpec(clips=self.clips, views=(self.view,), flips=self.flips),
            sound=self.sound,
            sound_seconds=self.sound_seconds,
        )
