"""Recipe settings of video-text learning; importable without torch."""

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
    """Softmax of each video over the texts of all classes: X-CLIP's loss (Ni et al. 2022, section 3.1)."""

    names: tuple[str, ...] = Field(min_length=1)  # of the classes by number; if omitted, read from the shards
    prompt: str = "{}"  # with {} for the class name; X-CLIP trains with the bare name
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    mix: MixSpec | None = None  # mixup and CutMix
    weight: PositiveFloat = 1.0


class Captions(_Spec):
    """Contrast of each video with the captions of the global batch."""

    loss: Literal["softmax", "sigmoid"] = "softmax"  # CLIP's (Radford et al. 2021) or SigLIP's (Zhai et al. 2023)
    # gathered: every rank holds all ranks' vectors; ring: they are passed around, and a rank holds two others' at most
    form: Literal["gathered", "ring"] = "gathered"
    weight: PositiveFloat = 1.0


class VideoTextSpec(ObjectiveSpec):
    """Videos, texts and optionally audio in one embedding space, learnt from class texts, captions, or both in one run.

    A sample contributes to the losses for which it has data: labels, a caption, audio.
    """

    builds: ClassVar[str] = "trichord.pretrain.objectives.video_text.objective:VideoTextObjective.of_run"
    reads_text: ClassVar[bool] = True

    kind: Literal["video_text"] = "video_text"
    clips: ClipSpec = Segments(frames=8)
    view: ViewSpec = ViewSpec(crop=RandomResizedCrop(size=224, scale=(0.4, 1.0)), flip_probability=0.5)
    sound: SoundSpec | None = None
    sound_seconds: PositiveFloat | None = None  # around the clip's middle; null: the clip's own time span
    classes: ClassTexts | None = None
    captions: Captions | None = Captions()
    audio_text_weight: NonNegativeFloat = 1.0  # of the contrast between audio and captions, where there is audio
    audio_video_weight: NonNegativeFloat = 1.0  # of the contrast between audio and videos
    joint_dim: PositiveInt | None = None  # of the embedding space; null: the text encoder's
    prompts: bool = False  # X-CLIP's video-specific prompts: video content is added to the embeddings of class texts
    frozen_text: bool = False  # the text encoder is frozen, and class vectors are computed once
    scale: PositiveFloat = 1 / 0.07  # initial scale of the cosines; SigLIP starts with 10
    bias: float = -10.0  # initial bias of the sigmoid loss
    learn_scale: bool = True

    @model_validator(mode="after")
    def _is_possible(self) -> VideoTextSpec:
        if self.clips.clip_count != 1 or self.view.crop.count > 1:
            raise ValueError("clips and view: training takes one view of each video, found several")
        if self.classes is None and self.captions is None:
            raise ValueError("there is no loss: classes and captions are both null")
        if self.prompts and self.classes is None:
            raise ValueError("prompts change texts of classes, and classes is null: set prompts=false, or give classes")
        if self.classes is not None and self.classes.prompt.count("{}") != 1:
            raise ValueError(f"classes.prompt={self.classes.prompt!r}: expected one {{}}, where the name goes")
        if self.classes is not None and self.classes.mix is not None and (self.captions or self.sound):
            raise ValueError("classes.mix blends pixels, and captions and sounds cannot be blended: set it to null")
        if self.sound is not None and self.captions is None and not self.audio_video_weight:
            raise ValueError("sound is not used by any loss: captions is null and audio_video_weight is 0")
        self.sample_spec()
        return self

    @property
    def parts(self) -> tuple[str, ...]:
        """The networks in a checkpoint, the one to export first."""
        return ("video",) if self.sound is None else ("video", "audio")

    def sample_spec(self) -> SampleSpec:
        """Return what a sample must contain."""
        return SampleSpec(
            views=ViewsSpec(clips=self.clips, views=(self.view,), flips=self.flips),
            sound=self.sound,
            sound_seconds=self.sound_seconds,
        )
