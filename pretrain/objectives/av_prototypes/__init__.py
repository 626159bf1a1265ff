"""Recipe settings of audio-visual learning; importable without torch."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from trichord.core.registry import Registry, load, one_of
from trichord.pretrain.objectives.spec import ObjectiveSpec
from trichord.shards.audio.sound_specs import KaldiFbank, SoundSpec
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.transforms.clip_specs import DenseWindow, FullVideo, Segments
from trichord.shards.transforms.crops import RandomResizedCrop
from trichord.shards.transforms.view_specs import ViewSpec, ViewsSpec


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RoundsSpec(_Spec):
    """When clusters are recomputed, and from which embeddings."""

    source: Literal["bank", "pass"] = "bank"
    """`bank` clusters the latest embeddings of training, which cost no extra pass but lag slightly behind the weights;
    `pass` those of the clips that the coming steps will read, without augmentation, which costs a forward pass for each
    clip."""
    first_step: PositiveInt = 1
    """Number of steps before the first clusters are computed; until then the target has no loss."""
    every_steps: PositiveInt = 1000
    """Number of steps from one computation of the clusters to the next."""
    samples: PositiveInt = 65536
    """Number of clips that are clustered, over all ranks: the size of the bank, or the length of a pass."""
    iterations: PositiveInt = 20
    """Largest number of iterations of k-means in a round."""
    spherical: bool = True
    """Keep the norm of centroids at 1, as that of the embeddings is."""
    giant: float = Field(default=20.0, gt=1)
    """Split a cluster that has more than this many times the mean number of clips."""


class TargetSpec(_Spec, ABC):
    """How clusters become a training target."""

    kind: str

    builds: ClassVar[str]  # "module:class" of the target
    in_one_space: ClassVar[bool] = True  # whether it compares audio with video embeddings

    @property
    def classes(self) -> tuple[int, ...]:
        """The number of classes of each linear head that the target adds to the encoders."""
        return ()

    def frozen_steps_of(self) -> Mapping[str, int]:
        """Return which of its parameters are frozen at first: patterns of names, and the number of steps."""
        return {}

    def build(self, dims: Mapping[str, int], batch_size: int, seed: int) -> Any:
        """Build the target for embeddings of these dimensions by modality."""
        return load(self.builds)(self, dims, batch_size, seed)


class PrototypeTarget(TargetSpec):
    """Softmax of each modality's embedding over all prototypes (cluster centroids) of the other modality.

    The target is the prototype of the cluster of the clip's other modality (CMPC, Zhu et al. 2022). Several numbers of
    clusters have equal weight. Temperatures follow each cluster's concentration, with `temperature` as their mean (PCL,
    Li et al. 2021), or are all equal.
    """

    builds: ClassVar[str] = "trichord.pretrain.objectives.av_prototypes.clusters:PrototypeContrast"

    kind: Literal["prototypes"] = "prototypes"
    clusters: tuple[PositiveInt, ...] = Field(default=(256, 512, 1024), min_length=1)
    """Number of clusters of each clustering of a modality; several clusterings have equal weight."""
    temperature: PositiveFloat = 0.2
    """Temperature of the softmax over prototypes; with `by_concentration`, the mean over all of them."""
    by_concentration: bool = True
    """Whether each prototype has its own temperature, lower for a denser cluster; false uses `temperature` for all."""
    rounds: RoundsSpec = RoundsSpec()
    """When clusters are recomputed, and from which embeddings."""


class LabelTarget(TargetSpec):
    """A linear head on each encoder learns clusters as classes (XDC, Alwassel et al. 2020).

    Labels of the `other` modality are XDC, of the `own` SDC, of `both` with one head each MDC, and of both modalities'
    embeddings clustered as one vector (`joint`) CDC. Clusters start from those of the previous round, so labels keep
    their meaning and heads need not be reinitialised.
    """

    builds: ClassVar[str] = "trichord.pretrain.objectives.av_prototypes.clusters:ClusterLabels"
    in_one_space: ClassVar[bool] = False

    kind: Literal["labels"] = "labels"
    labels: Literal["other", "own", "both", "joint"] = "other"
    """Whose clusters a modality learns: those of the `other` modality (XDC), of its `own` (SDC), of `both` with a head
    each (MDC), or of both modalities' embeddings clustered as one vector (`joint`, CDC)."""
    clusters: tuple[PositiveInt, ...] = Field(default=(128,), min_length=1)
    """Number of clusters of each clustering, for each of which an encoder has a linear head."""
    balanced: bool = False
    """Weight clips by the inverse of the size of their cluster, so that all clusters count equally."""
    rounds: RoundsSpec = RoundsSpec()
    """When clusters are recomputed, and from which embeddings."""

    @property
    def classes(self) -> tuple[int, ...]:
        return self.clusters * (2 if self.labels == "both" else 1)


class SinkhornTarget(TargetSpec):
    """Swapped assignment without rounds (SwAV, Caron et al. 2020): a modality predicts the other's balanced codes."""

    builds: ClassVar[str] = "trichord.pretrain.objectives.av_prototypes.sinkhorn:SinkhornSwap"

    kind: Literal["sinkhorn"] = "sinkhorn"
    prototypes: PositiveInt = 512
    """Number of prototypes, which both modalities share."""
    temperature: PositiveFloat = 0.1
    """Temperature of the softmax over prototypes."""
    epsilon: PositiveFloat = 0.05
    """Softness of the assigned codes; lower is harder, and 0.03 has helped SwAV users whose loss was stuck at
    ln(prototypes)."""
    iterations: PositiveInt = 3
    """Number of Sinkhorn iterations, which balance the use of the prototypes."""
    frozen_steps: NonNegativeInt = 0
    """Number of steps at the start in which the prototypes are frozen; 0 trains them from the first step."""

    def frozen_steps_of(self) -> Mapping[str, int]:
        return {"prototypes.*": self.frozen_steps} if self.frozen_steps else {}


TARGETS: Registry[type[TargetSpec]] = Registry(
    "targets",
    {
        "prototypes": f"{__name__}:PrototypeTarget",
        "labels": f"{__name__}:LabelTarget",
        "sinkhorn": f"{__name__}:SinkhornTarget",
    },
)
if TYPE_CHECKING:
    AnyTarget = TargetSpec
else:
    AnyTarget = one_of(TARGETS)


class AvPrototypesSpec(ObjectiveSpec):
    """Audio-visual learning: a target from clusters, and contrast of single clips across and within modalities."""

    builds: ClassVar[str] = "trichord.pretrain.objectives.av_prototypes.objective:AvPrototypes.of_run"
    # A round starts from the clusters of the previous one, and the weights of linear heads depend on them.
    fixed: ClassVar[tuple[str, ...]] = ("target.clusters",)

    kind: Literal["av_prototypes"] = "av_prototypes"
    clips: Annotated[DenseWindow | Segments | FullVideo, Field(discriminator="kind")] = DenseWindow(
        frames=16, clip_seconds=5.12
    )
    """How clips are taken from a video: one, or two for `within_weight`."""
    view: ViewSpec = ViewSpec(crop=RandomResizedCrop(size=224, scale=(0.4, 1.0)), flip_probability=0.5)
    """Transforms of the frames of a clip."""
    sound: SoundSpec = KaldiFbank(frames=512)
    """Spectrogram of the audio of a clip."""
    sound_seconds: PositiveFloat | None = None
    """Seconds of audio around the middle of a clip; null takes the clip's own time span."""
    embedding_dim: PositiveInt | None = 128
    """Number of features of the embeddings that are clustered and compared; null uses the backbones' pooled vectors, as
    XDC does."""
    hidden_dim: PositiveInt = 2048
    """Width of the hidden layer of the embedding heads."""
    target: AnyTarget | None = PrototypeTarget()
    """How clusters become a training target, selected by `kind`; null for none."""
    target_weight: NonNegativeFloat = 1.0
    """Weight of the loss of the target."""
    cross_weight: NonNegativeFloat = 1.0
    """Weight of the contrast between a clip's video and its audio; 0 for none."""
    within_weight: NonNegativeFloat = 0.0
    """Weight of the contrast between two clips of a video in each modality, which needs `clips.clips=2`; 0 for none."""
    temperature: PositiveFloat = 0.07
    """Temperature of the contrast of single clips."""
    learn_temperature: bool = False
    """Learn the temperature of the contrast, which stays at least 0.01, as in CLIP."""

    @model_validator(mode="after")
    def _is_possible(self) -> AvPrototypesSpec:
        count = self.clips.clip_count
        if count not in (1, 2) or self.view.crop.count > 1:
            raise ValueError("clips: expected one clip of a video, or two for within_weight, and one view of each")
        if self.within_weight and count != 2:
            raise ValueError("within_weight compares two clips of a video: set clips.clips=2")
        if self.embedding_dim is None and (self.cross_weight or (self.target and self.target.in_one_space)):
            raise ValueError(
                "embedding_dim=null uses the encoders' own vectors, whose lengths differ: they can be compared within "
                "their modality only. Set embedding_dim, or set cross_weight=0 and target.kind=labels"
            )
        if not (self.cross_weight or self.within_weight or (self.target and self.target_weight)):
            raise ValueError("there is no loss: target is null or its weight 0, cross_weight and within_weight are 0")
        return self

    @property
    def parts(self) -> tuple[str, ...]:
        """The networks in a checkpoint, the one to export first."""
        return ("video", "audio")

    def sample_spec(self) -> SampleSpec:
        """Return what a sample must contain."""
        views = ViewsSpec(clips=self.clips, views=(self.view,), flips=self.flips)
        return SampleSpec(views=views, sound=self.sound, sound_seconds=self.sound_seconds, sound_of="each_clip")
