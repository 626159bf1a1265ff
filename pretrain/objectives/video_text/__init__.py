"""Recipe settings of video-text learning; importable without torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from trichord.pretrain.objectives.spec import ObjectiveSpec
from trichord.shards.audio.sound_specs import SoundSpec
from trichord.shards.record import LabelRule
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.transforms.clip_specs import ClipSpec, Segments
from trichord.shards.transforms.crops import RandomResizedCrop
from trichord.shards.transforms.view_specs import MixSpec, ViewSpec, ViewsSpec


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassTexts(_Spec):
    """Softmax of each video over the texts of all classes: X-CLIP's loss (Ni et al. 2022, section 3.1)."""

    names: tuple[str, ...] = Field(min_length=1)
    """Names of the classes in the order of their numbers; where a recipe omits them, they are read from the shards."""
    prompt: str = "{}"
    """Text of a class, with {} in place of its name; X-CLIP trains with the bare name."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each target that is spread evenly over all classes."""
    mix: MixSpec | None = None
    """Mixup and CutMix of videos and their classes; null for none."""
    weight: PositiveFloat = 1.0
    """Weight of the loss of class texts."""


class Captions(_Spec):
    """Contrast of each video with the captions of the global batch."""

    loss: Literal["softmax", "sigmoid"] = "softmax"
    """`softmax` is CLIP's loss (Radford et al. 2021), `sigmoid` SigLIP's (Zhai et al. 2023)."""
    form: Literal["gathered", "ring"] = "gathered"
    """`gathered` lets every rank hold the vectors of all ranks; `ring` passes them around, so that a rank holds those
    of at most two others, which saves memory with many ranks."""
    weight: PositiveFloat = 1.0
    """Weight of the contrast between videos and captions."""


class VideoTextSpec(ObjectiveSpec):
    """Videos, texts and optionally audio in one embedding space, learnt from class texts, captions, or both in one run.

    A sample contributes to the losses for which it has data: labels, a caption, audio.
    """

    builds: ClassVar[str] = "trichord.pretrain.objectives.video_text.objective:VideoTextObjective.of_run"
    reads_text: ClassVar[bool] = True

    kind: Literal["video_text"] = "video_text"
    clips: ClipSpec = Segments(frames=8)
    """How the clip is taken from a video."""
    view: ViewSpec = ViewSpec(crop=RandomResizedCrop(size=224, scale=(0.4, 1.0)), flip_probability=0.5)
    """Transforms of the frames of a clip."""
    sound: SoundSpec | None = None
    """Spectrogram of the audio, as a third modality; null for none."""
    sound_seconds: PositiveFloat | None = None
    """Seconds of audio around the middle of a clip; null takes the clip's own time span."""
    classes: ClassTexts | None = None
    """Learn from the texts of classes; null for none."""
    captions: Captions | None = Captions()
    """Learn from captions; null for none."""
    audio_text_weight: NonNegativeFloat = 1.0
    """Weight of the contrast between audio and captions, where there is audio; 0 for none."""
    audio_video_weight: NonNegativeFloat = 1.0
    """Weight of the contrast between audio and videos, where there is audio; 0 for none."""
    joint_dim: PositiveInt | None = None
    """Number of features of the embedding space; null takes that of the text encoder."""
    prompts: bool = False
    """Add the content of a video to the embeddings of class texts (X-CLIP's video-specific prompts)."""
    frozen_text: bool = False
    """Keep the weights of the text encoder fixed; the vectors of class texts are then computed once."""
    scale: PositiveFloat = 1 / 0.07
    """Initial scale of the cosines, the inverse of the temperature; SigLIP starts with 10."""
    bias: float = -10.0
    """Initial bias of the sigmoid loss."""
    learn_scale: bool = True
    """Learn the scale; false keeps its initial value."""

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
            label_rule=self._label_rule(),
        )

    def _label_rule(self) -> LabelRule | None:
        if self.classes is None:
            return None
        several = "For clips of several classes, use captions: objective.classes=null"
        return LabelRule(classes=len(self.classes.names), most=1, advice=several)
