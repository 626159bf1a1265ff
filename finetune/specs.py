"""What a recipe says of a classification: which senses, which views, which head and loss; read without torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from trichord.finetune.loss_specs import BinarySpec, CrossEntropySpec, LossSpec
from trichord.shards.hearing.sound_specs import SoundSpec
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.viewing.clip_specs import ClipSpec, DenseWindow, Segments, SlidingWindows, clip_count
from trichord.shards.viewing.flips import FlipRule
from trichord.shards.viewing.normalise import Normalisation
from trichord.shards.viewing.view_specs import MixSpec, Squash, ViewSpec, ViewsSpec

Sense = Literal["video", "audio"]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HeadSpec(_Spec):
    """From a backbone's tokens to classes: a pooling for each sense, then layers; without hidden ones it is linear."""

    # The backbone's own vector, or what is made of its tokens: their mean, the answer to a learnt question, or the mean
    # with a learnt weight for each place, the backbone's own vector among them.
    pool: Literal["pooled", "mean", "attention", "weighted"] = "pooled"
    pool_heads: PositiveInt = 8  # of attention pooling
    layer_norm: bool = False  # of each sense's vector
    hidden: tuple[PositiveInt, ...] = ()  # sizes of hidden layers
    activation: Literal["relu", "gelu"] = "relu"
    dropout: float = Field(default=0.0, ge=0, lt=1)  # before the last layer; in an MLP after each hidden one

    @property
    def needs_grid(self) -> bool:
        """Say whether the backbone's own vector does not suffice."""
        return self.pool != "pooled"

    @property
    def words(self) -> str:
        """Say in short what it is."""
        layers = "-".join(map(str, self.hidden))
        return f"{f'MLP {layers}' if layers else 'linear'} on {self.pool}"


def drawn_of_views(clips: ClipSpec, view: ViewSpec) -> tuple[str, ...]:
    """Name the settings by which chance decides what is seen of a video."""
    draws = {
        "clips.placement": getattr(clips, "placement", None) == "random" or clips.kind == "svt",
        "view.crop": view.crop.kind not in ("centre", "squash"),
        "view.flip_probability": view.flip_probability > 0,
        "view.rand_augment": view.rand_augment is not None,
        "view.jitter": view.jitter is not None,
        "view.grey_probability": view.grey_probability > 0,
    }
    return tuple(name for name, is_drawn in draws.items() if is_drawn)


class ClassificationSpec(_Spec):
    """Classes from sight, sound or both: pooled vectors of the senses, one behind the other, and a head on them."""

    kind: Literal["classification"] = "classification"
    inputs: tuple[Sense, ...] = Field(default=("video",), min_length=1)
    classes: PositiveInt | Annotated[tuple[str, ...], Field(min_length=1)]  # how many, or their names
    clips: ClipSpec  # in training, one of each video
    labels: Literal["video", "clip"] = "video"  # in training; clip: of the intervals that overlap it
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
    # What is made of a video's views in a test: the mean of probabilities or logits, or the highest probability.
    average: Literal["probability", "logit", "max"] = "probability"

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
        return not isinstance(self.loss, CrossEntropySpec)

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
    def test_crops(self) -> int:
        """Count the views of a test's clip."""
        return 3 if self.test_view.crop.kind == "three" and "video" in self.inputs else 1

    @property
    def views_words(self) -> str:
        """Say what a test looks at of each video, and what it makes of that."""
        kind = "sigmoids" if self.is_multi_label else "softmax"
        mixed = {"logit": "logits averaged", "probability": f"{kind} averaged", "max": f"the highest of {kind}"}
        if isinstance(self.test_clips, SlidingWindows):
            length, stride = self.test_clips.clip_seconds, self.test_clips.stride_seconds
            crops = f" x {self.test_crops} crops" if self.test_crops > 1 else ""
            return f"windows of {length:g} s every {stride or length:g} s{crops}, {mixed[self.average]}"
        views = (clip_count(self.test_clips) or 0) * self.test_crops
        return f"{views} views of a clip" + (f", {mixed[self.average]}" if views > 1 else "")

    @property
    def left_to_chance(self) -> tuple[str, ...]:
        """Name the settings by which chance decides what a backbone is given of a training clip."""
        draws = {
            "sound.spec_augment": getattr(self.sound, "spec_augment", None) is not None,
            "mix": self.mix is not None,
        }
        drawn = drawn_of_views(self.clips, self.view)
        seen = tuple(name for name in drawn if "video" in self.inputs or name != "view.crop")
        return (*seen, *(name for name, is_drawn in draws.items() if is_drawn))

    @property
    def needs_grid(self) -> bool:
        """Say whether a head looks at more of a backbone than its own vector."""
        return self.head.needs_grid

    def sample_spec(self) -> SampleSpec:
        """Say what a sample must bring to training."""
        return self._sample_spec(self.clips, self.view, is_training=True)

    def test_spec(self) -> SampleSpec:
        """Say what a sample must bring to a test."""
        spec = self._sample_spec(self.test_clips, self.test_view, is_training=False)
        return spec.model_copy(update={"timeline": True})

    def _sample_spec(self, clips: ClipSpec, view: ViewSpec, is_training: bool) -> SampleSpec:
        if "video" not in self.inputs:
            clips, view = _unseen(clips), ViewSpec(crop=Squash(size=1))
        return SampleSpec(
            views=ViewsSpec(clips=clips, views=(view,), flips=self.flips),
            sound=self.sound if "audio" in self.inputs else None,
            sound_seconds=self.sound_seconds,
            sound_of="each_clip",
            caption="first",
            labels="clips" if is_training and self.labels == "clip" else "video",
            is_training=is_training,
        )

    @model_validator(mode="after")
    def _can_be(self) -> ClassificationSpec:
        if len(set(self.inputs)) < len(self.inputs):
            raise ValueError(f"inputs {list(self.inputs)} name a sense twice")
        if clip_count(self.clips) != 1 or self.view.crop.kind == "three":
            raise ValueError("clips and view: training takes one view of each video, found several")
        if self.labels == "clip" and not self.is_multi_label:
            raise ValueError(
                "labels=clip: a window may see several actions, or none, and loss.kind=cross_entropy wants one of "
                "each. Set loss.kind=binary"
            )
        if self.labels == "clip" and isinstance(self.loss, BinarySpec) and self.loss.pos_weight == "inverse_frequency":
            raise ValueError(
                "loss.pos_weight=inverse_frequency counts videos, and labels=clip has windows learnt: give a number"
            )
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
        case Segments() | DenseWindow() | SlidingWindows():
            return clips.model_copy(update={"frames": 1})
        case _:
            return clips
