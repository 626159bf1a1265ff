"""Recipe settings of classification: inputs, views, head and loss; importable without torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, model_validator

from trichord.core.console import counted
from trichord.core.errors import UserError
from trichord.core.registry import Registry
from trichord.finetune.tasks.classification.loss_specs import AnyLoss, CrossEntropySpec
from trichord.finetune.tasks.spec import TaskSpec, random_settings_of
from trichord.shards.audio.sound_specs import SoundSpec
from trichord.shards.record import LabelRule
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.transforms.clip_specs import ClipSpec
from trichord.shards.transforms.crops import Squash
from trichord.shards.transforms.view_specs import MixSpec, ViewSpec, ViewsSpec

_HEAD = "trichord.finetune.tasks.classification.head"


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


POOLS: Registry[Any] = Registry(
    "pools",
    {
        "pooled": f"{_HEAD}:FirstToken",
        "mean": f"{_HEAD}:MeanToken",
        "attention": f"{_HEAD}:AttentionPool",
        "weighted": f"{_HEAD}:WeightedPool",
    },
)


class HeadSpec(_Spec):
    """From a backbone's tokens to classes: a pooling for each modality, then layers; linear without hidden layers."""

    pool: Annotated[str, AfterValidator(POOLS.check)] = "pooled"
    """How the tokens of a clip become one vector: `pooled` takes the backbone's pooled vector, `mean` the mean of its
    tokens, `attention` pools them by a learnt query, `weighted` takes the mean with a learnt weight for each position,
    including the pooled vector."""
    pool_heads: PositiveInt = 8
    """Number of heads of attention pooling, which must divide the features of the backbone."""
    layer_norm: bool = False
    """Normalise the vector of each modality by a layer norm."""
    hidden: tuple[PositiveInt, ...] = ()
    """Widths of the hidden layers; an empty list is a linear head."""
    activation: Literal["relu", "gelu"] = "relu"
    """Activation after each hidden layer."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout rate after each hidden layer, or before the only layer of a linear head."""

    @property
    def needs_grid(self) -> bool:
        """Whether the head needs more than the backbone's pooled vector."""
        return self.pool != "pooled"

    @property
    def words(self) -> str:
        """A short description."""
        layers = "-".join(map(str, self.hidden))
        return f"{f'MLP {layers}' if layers else 'linear'} on {self.pool}"


class SlowFastSpec(_Spec):
    """Slow-fast inference of SVT (Ranasinghe et al. 2022): two views of each test clip, whose vectors are averaged.

    The fast view has all frames of the clip, the slow view a few of them at the full size of the test view. The
    published results use 8 frames of 224 pixels with 64 frames of 96 pixels: `test_clips.frames=64`.
    """

    slow_frames: PositiveInt = 8
    """Number of frames of the slow view, spread evenly over those of the test clip."""
    fast_size: PositiveInt = 96
    """Height and width of the fast view in pixels, to which the test view is scaled down."""


class ClassificationSpec(TaskSpec):
    """Classification from video, audio or both: a head on the concatenated pooled vectors of the modalities."""

    builds: ClassVar[str] = "trichord.finetune.tasks.classification.model:Classification.of_run"
    prepares: ClassVar[str] = "trichord.finetune.tasks.classification.model:prepare"
    evaluates: ClassVar[str] = "trichord.finetune.tasks.classification.evaluation:evaluate"
    predicts: ClassVar[str] = "trichord.finetune.tasks.classification.scoring:predict"
    page_predicts: ClassVar[str] = "trichord.finetune.page.predictions:predict_actions"
    page_section: ClassVar[str] = "actions"
    draws: ClassVar[str] = "trichord.finetune.tasks.classification.pictures:draw_all"
    takes_class_names: ClassVar[bool] = True
    takes_features: ClassVar[bool] = True
    fixed: ClassVar[tuple[str, ...]] = ("inputs", "classes", "head", "frozen")

    kind: Literal["classification"] = "classification"
    classes: PositiveInt | Annotated[tuple[str, ...], Field(min_length=1)]
    """Number of classes, or their names in the order of their numbers; where a recipe omits it, the names are read from
    the shards."""
    labels: Literal["video", "clip"] = "video"
    """Labels in training: `video` takes those of the whole video, `clip` those of the annotated intervals that overlap
    the clip."""
    sound: SoundSpec | None = None
    """Spectrogram of the audio; null without audio."""
    sound_seconds: float | None = Field(default=None, gt=0)
    """Seconds of audio around the middle of a clip; null takes the clip's own time span."""
    absent: Literal["learned", "zero"] = "learned"
    """Vector that replaces the audio of a clip without any: `learned` or `zero`."""
    mix: MixSpec | None = None
    """Mixup and CutMix, for a head that takes video only; null for none."""
    head: HeadSpec = HeadSpec()
    """The head: a pooling of tokens for each modality, then layers."""
    loss: AnyLoss = CrossEntropySpec()
    """The loss, selected by `kind`, which also decides whether a clip may have several classes."""
    average: Literal["probability", "logit", "max"] = "probability"
    """How an evaluation combines the views of a video: the mean of their probabilities or logits, or the highest
    probability."""

    test_slow_fast: SlowFastSpec | None = None
    """Slow-fast inference in evaluation, for a head on the pooled vector of a video; null for one view of each clip."""

    @property
    def count(self) -> int:
        """The number of classes."""
        return self.classes if isinstance(self.classes, int) else len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes, or their numbers if they have no names."""
        return tuple(map(str, range(self.classes))) if isinstance(self.classes, int) else self.classes

    @property
    def label_rule(self) -> LabelRule:
        """The labels that a clip may have."""
        if self.is_multi_label:
            return LabelRule(classes=self.count, intervals=True)
        several = "For clips of several classes, or of none: objective.loss.kind=binary"
        return LabelRule(classes=self.count, fewest=1, most=1, advice=several)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.names

    @property
    def is_multi_label(self) -> bool:
        """Whether a clip may have several classes, or none."""
        return self.loss.is_multi_label

    @property
    def head_words(self) -> str:
        """A short description of the head on the backbones."""
        return self.head.words

    @property
    def test_crops(self) -> int:
        """The number of crops of a clip in evaluation."""
        return self.test_view.crop.count if "video" in self.inputs else 1

    @property
    def views_words(self) -> str:
        """A description of the views of each video in evaluation, and of how they are combined."""
        kind = "sigmoids" if self.is_multi_label else "softmax"
        pair, pairs = self.test_slow_fast, ""
        if pair is not None:
            slow = f"{pair.slow_frames} frames of {self.test_view.crop.size} px"
            pairs = f", slow-fast: {slow} with {min(self.test_clips.frame_counts)} of {pair.fast_size} px"
        mixed = {"logit": "logits averaged", "probability": f"{kind} averaged", "max": f"maximum of {kind}"}
        windows = self.test_clips.window_words
        if windows is not None:
            crops = f" x {self.test_crops} crops" if self.test_crops > 1 else ""
            return f"{windows}{crops}, {mixed[self.average]}{pairs}"
        views = (self.test_clips.clip_count or 0) * self.test_crops
        return f"{counted(views, 'view')} of a clip" + (f", {mixed[self.average]}" if views > 1 else "") + pairs

    @property
    def random_settings(self) -> tuple[str, ...]:
        """The settings that randomise a backbone's inputs in training."""
        draws = {
            "sound.spec_augment": getattr(self.sound, "spec_augment", None) is not None,
            "mix": self.mix is not None,
        }
        drawn = random_settings_of(self.clips, self.view)
        seen = tuple(name for name in drawn if "video" in self.inputs or name != "view.crop")
        return (*seen, *(name for name, is_drawn in draws.items() if is_drawn))

    @property
    def needs_grid(self) -> bool:
        """Whether the head needs more of a backbone than its pooled vector."""
        return self.head.needs_grid

    def sample_spec(self) -> SampleSpec:
        """Return what a sample must contain in training."""
        return self._sample_spec(self.clips, self.view, is_training=True)

    def test_spec(self) -> SampleSpec:
        """Return what a sample must contain in evaluation."""
        spec = self._sample_spec(self.test_clips, self.test_view, is_training=False)
        return spec.model_copy(update={"timeline": True})

    def _sample_spec(self, clips: ClipSpec, view: ViewSpec, is_training: bool) -> SampleSpec:
        if "video" not in self.inputs:
            clips, view = clips.for_sound(), ViewSpec(crop=Squash(size=1))
        return SampleSpec(
            views=ViewsSpec(clips=clips, views=(view,), flips=self.flips),
            sound=self.sound if "audio" in self.inputs else None,
            sound_seconds=self.sound_seconds,
            sound_of="each_clip",
            caption="first",
            labels="clips" if is_training and self.labels == "clip" else "video",
            label_rule=self.label_rule,
            is_training=is_training,
        )

    def complaints(self, run: Any) -> Iterator[str]:
        batch_size, lanes = run.data.batch_size, run.data.lanes
        if self.mix is not None and batch_size < 2 * lanes:
            yield (
                "objective.mix blends samples of one stream lane, and each lane yields one sample a step: set "
                f"data.batch_size to at least {2 * lanes} or data.lanes to at most {batch_size // 2}"
            )

        pair, backbone = self.test_slow_fast, run.backbone
        if pair is not None and backbone is not None:
            too_few = pair.slow_frames < backbone.fewest_frames
            if too_few or pair.slow_frames % backbone.frame_step or pair.fast_size % backbone.size_step:
                yield (
                    f"objective.test_slow_fast: backbone {backbone.kind} takes {backbone.fewest_frames} or more frames "
                    f"in multiples of {backbone.frame_step}, and pixels in multiples of {backbone.size_step}"
                )

    def check(self, config: Any) -> str:
        for source, opened in zip(config.data.sources, config.data.open_sources(), strict=True):
            self._check_classes(opened.manifest.classes, source.root)
        return f"classes: {self.count}"

    def _check_classes(self, found: tuple[str, ...], where: str) -> None:
        """Raise UserError if a data set's classes differ from this head's; a set without class names is accepted."""
        if not found or found == self.classes:
            return
        if len(found) != self.count:
            raise UserError(
                f"{where} has {len(found)} classes and objective.classes {self.count}. Leave objective.classes out to "
                "take them from the shards; a head that was trained for other classes cannot be evaluated on these"
            )
        if isinstance(self.classes, int):
            return
        number = next(n for n, (own, other) in enumerate(zip(self.classes, found, strict=True)) if own != other)
        raise UserError(
            f"{where} calls class {number} {found[number]!r}, and objective.classes {self.classes[number]!r}: the "
            "class numbers have different meanings. Build all shards with the same list of classes"
        )

    @model_validator(mode="after")
    def _can_be(self) -> ClassificationSpec:
        if len(set(self.inputs)) < len(self.inputs):
            raise ValueError(f"inputs {list(self.inputs)} name a modality twice")
        if self.clips.clip_count != 1 or self.view.crop.count > 1:
            raise ValueError("clips and view: training takes one view of each video, found several")
        if self.labels == "clip" and not self.is_multi_label:
            raise ValueError(
                "labels=clip: a window may have several actions, or none, but loss.kind=cross_entropy needs exactly "
                "one. Set loss.kind=binary"
            )
        if self.labels == "clip" and self.loss.counts_classes:
            raise ValueError(
                "loss.pos_weight=inverse_frequency counts videos, but labels=clip trains on windows: set a number"
            )
        if "audio" in self.inputs and self.sound is None:
            raise ValueError("sound is null, but inputs name audio: set sound.kind, for example to kaldi_fbank")
        if self.mix is not None and self.inputs != ("video",):
            raise ValueError('mix blends pixels and needs inputs=["video"]. Set mix=null')
        if self.test_slow_fast is not None:
            self._check_slow_fast(self.test_slow_fast)
        self.sample_spec(), self.test_spec()  # which have their own rules
        return self

    def _check_slow_fast(self, pair: SlowFastSpec) -> None:
        if "video" not in self.inputs or self.head.needs_grid:
            raise ValueError(
                "test_slow_fast averages pooled vectors of videos: set head.pool=pooled and inputs=[video]"
            )
        frames, size = min(self.test_clips.frame_counts, default=0), self.test_view.crop.size
        if frames < pair.slow_frames or size < pair.fast_size:
            raise ValueError(
                f"test_slow_fast takes {pair.slow_frames} frames and {pair.fast_size} pixels of a test clip, which has "
                f"{frames or 'no fixed number of'} frames of {size} pixels. Set test_clips.frames, for example to 64"
            )
