"""What a recipe says of a classification: which senses, which views, which head and loss; read without torch."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from shards.hearing.sound_specs import SoundSpec
from shards.sample_spec import SampleSpec
from shards.viewing.clip_specs import ClipSpec, DenseWindow, FullVideo, Segments, clip_count
from shards.viewing.flips import FlipRule
from shards.viewing.normalise import Normalisation
from shards.viewing.view_specs import MixSpec, Squash, ViewSpec, ViewsSpec

Sense = Literal["video", "audio"]
C = TypeVar("C", Segments, DenseWindow, FullVideo)


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HeadSpec(_Spec):
    """From a backbone's tokens to classes: a pooling for each sense, then layers; without hidden ones it is linear."""

    pool: Literal["pooled", "mean", "attention"] = "pooled"  # the backbone's own vector, or what is made of its tokens
    pool_heads: PositiveInt = 8  # of attention pooling
    layer_norm: bool = False  # of each sense's vector
    hidden: tuple[PositiveInt, ...] = ()  # sizes of hidden layers
    activation: Literal["relu", "gelu"] = "relu"
    dropout: float = Field(default=0.0, ge=0, lt=1)  # before the last layer; in an MLP after each hidden one

    @property
    def words(self) -> str:
        """Say in short what it is."""
        layers = "-".join(map(str, self.hidden))
        return f"{f'MLP {layers}' if layers else 'linear'} on {self.pool}"


class CrossEntropySpec(_Spec):
    """One class for each clip."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)


class BinarySpec(_Spec):
    """Several classes for a clip, each a yes or no of its own, or none."""

    kind: Literal["binary"] = "binary"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    # What a yes counts against a no; inverse_frequency: as many times as there are clips without the class for each
    # with it, counted once over the training set.
    pos_weight: PositiveFloat | Literal["inverse_frequency"] = 1.0


LossSpec = Annotated[CrossEntropySpec | BinarySpec, Field(discriminator="kind")]


class ClassificationSpec(_Spec):
    """Classes from sight, sound or both: pooled vectors of the senses, one behind the other, and a head on them."""

    kind: Literal["classification"] = "classification"
    inputs: tuple[Sense, ...] = Field(default=("video",), min_length=1)
    classes: PositiveInt | Annotated[tuple[str, ...], Field(min_length=1)]  # how many, or their names
    clips: ClipSpec  # in training, one of each video
    view: ViewSpec
    test_clips: ClipSpec
    test_view: ViewSpec
    flips: FlipRule = FlipRule()
    normalisation: Normalisation = Normalisation()
    sound: SoundSpec | None = None
    sound_seconds: float | None = Field(default=None, gt=0)  # around a clip's middle; None: that clip's stretch
    absent: Literal["learned", "zero"] = "learned"  # what stands in for the vector of a sense that a clip lacks
    mix: MixSpec | None = None  # mixup and CutMix, of video alone
    head: HeadSpec = HeadSpec()
    loss: LossSpec = CrossEntropySpec()
    frozen: bool = False  # backbones stay as they are: a probe
    average: Literal["probability", "logit"] = "probability"  # over the views of a test clip

    @property
    def count(self) -> int:
        """Say how many classes there are."""
        return self.classes if isinstance(self.classes, int) else len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Name the classes, by their numbers where nothing else is known."""
        return tuple(map(str, range(self.classes))) if isinstance(self.classes, int) else self.classes

    @property
    def is_multi_label(self) -> bool:
        """Say whether a clip may have several classes, or none."""
        return self.loss.kind == "binary"

    @property
    def head_words(self) -> str:
        """Say in short what is on the backbone."""
        return self.head.words

    @property
    def trained_words(self) -> str:
        """Say in short what learns."""
        return "head" if self.frozen else "all"

    @property
    def parts(self) -> tuple[str, ...]:
        """Name the networks in a checkpoint."""
        return self.inputs

    @property
    def test_views(self) -> int:
        """Count the views of a test clip."""
        crops = 3 if self.test_view.crop.kind == "three" and "video" in self.inputs else 1
        return (clip_count(self.test_clips) or 0) * crops

    def sample_spec(self) -> SampleSpec:
        """Say what a sample must bring to training."""
        return self._sample_spec(self.clips, self.view, is_training=True)

    def test_spec(self) -> SampleSpec:
        """Say what a sample must bring to a test."""
        return self._sample_spec(self.test_clips, self.test_view, is_training=False)

    def _sample_spec(self, clips: ClipSpec, view: ViewSpec, is_training: bool) -> SampleSpec:
        if "video" not in self.inputs:
            clips, view = _unseen(clips), ViewSpec(crop=Squash(size=1))
        return SampleSpec(
            views=ViewsSpec(clips=clips, views=(view,), flips=self.flips),
            sound=self.sound if "audio" in self.inputs else None,
            sound_seconds=self.sound_seconds,
            sound_of="each_clip",
            caption="first",
            is_training=is_training,
        )

    @model_validator(mode="after")
    def _can_be(self) -> ClassificationSpec:
        if len(set(self.inputs)) < len(self.inputs):
            raise ValueError(f"inputs {list(self.inputs)} name a sense twice")
        if clip_count(self.clips) != 1 or self.view.crop.kind == "three":
            raise ValueError("clips and view: training takes one view of each video, found several")
        if clip_count(self.test_clips) is None:
            raise ValueError("test_clips: a batch needs as many views of every video; take segments, window or full")
        if "audio" in self.inputs and self.sound is None:
            raise ValueError("sound is null and inputs name audio: give sound.kind, such as kaldi_fbank")
        if self.mix is not None and self.inputs != ("video",):
            raise ValueError('mix blends pixels: it goes with inputs=["video"] alone. Set mix=null')
        self.sample_spec(), self.test_spec()  # which have rules of their own
        return self


def _unseen(clips: ClipSpec) -> ClipSpec:
    """Give clips of the same stretches of time for the ear alone: one frame, where frames do not make the stretch."""
    match clips:
        case DenseWindow() if clips.clip_seconds is None:
            return clips
        case Segments() | DenseWindow():
            return clips.model_copy(update={"frames": 1})
        case _:
            return clips
