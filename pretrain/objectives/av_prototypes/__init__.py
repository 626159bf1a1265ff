"""What a recipe says of audio-visual learning; read without torch."""

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
from trichord.shards.transforms.view_specs import RandomResizedCrop, ViewSpec, ViewsSpec


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RoundsSpec(_Spec):
    """When clusters are found anew, and among which embeddings."""

    # bank: those that training made last, which cost no pass and lag behind the weights a little; pass: those of the
    # clips that the coming steps will read, whole and unaltered, which costs a forward pass of each
    source: Literal["bank", "pass"] = "bank"
    first_step: PositiveInt = 1  # the first clusters are found after so many steps; until then there are no targets
    every_steps: PositiveInt = 1000
    samples: PositiveInt = 65536  # of all ranks: how many a bank remembers, how many a pass looks at
    iterations: PositiveInt = 20
    spherical: bool = True  # centroids have length 1, as the embeddings have
    giant: float = Field(default=20.0, gt=1)  # a cluster of more than so many times the mean size is split


class TargetSpec(_Spec, ABC):
    """What is made of clusters."""

    kind: str

    builds: ClassVar[str]  # "module:class" of the target
    in_one_space: ClassVar[bool] = True  # whether it compares embeddings of sound and picture

    @property
    def classes(self) -> tuple[int, ...]:
        """The number of classes of each linear head that the encoders get for it."""
        return ()

    def frozen_steps_of(self) -> Mapping[str, int]:
        """Return which of its parameters stand still at first, by pattern, and for how many steps."""
        return {}

    def build(self, dims: Mapping[str, int], batch_size: int, seed: int) -> Any:
        """Build the target for embeddings of these dimensions by modality."""
        return load(self.builds)(self, dims, batch_size, seed)


class PrototypeTarget(TargetSpec):
    """Each sense's embedding against the prototypes (cluster centroids) of the other, softmax over all of them.

    The prototype to find is that of the cluster in which the clip's other sense lies (CMPC, Zhu et al. 2022). Several
    numbers of clusters count alike. Temperatures follow each cluster's concentration and have this mean (PCL, Li et al.
    2021), or are all equal.
    """

    builds: ClassVar[str] = "trichord.pretrain.objectives.av_prototypes.clusters:PrototypeContrast"

    kind: Literal["prototypes"] = "prototypes"
    clusters: tuple[PositiveInt, ...] = Field(default=(256, 512, 1024), min_length=1)
    temperature: PositiveFloat = 0.2
    by_concentration: bool = True
    rounds: RoundsSpec = RoundsSpec()


class LabelTarget(TargetSpec):
    """A linear head on each encoder learns clusters as if they were classes (XDC, Alwassel et al. 2020).

    Labels of the `other` sense are XDC, the `own` SDC, of `both` with a head each MDC, of both senses' embeddings
    clustered as one vector (`joint`) CDC. Clusters start from those of the round before, so labels keep their meaning
    and heads are not drawn anew.
    """

    builds: ClassVar[str] = "trichord.pretrain.objectives.av_prototypes.clusters:ClusterLabels"
    in_one_space: ClassVar[bool] = False

    kind: Literal["labels"] = "labels"
    labels: Literal["other", "own", "both", "joint"] = "other"
    clusters: tuple[PositiveInt, ...] = Field(default=(128,), min_length=1)
    balanced: bool = False  # clips weigh by the inverse of their cluster's size
    rounds: RoundsSpec = RoundsSpec()

    @property
    def classes(self) -> tuple[int, ...]:
        return self.clusters * (2 if self.labels == "both" else 1)


class SinkhornTarget(TargetSpec):
    """Swapped assignment without rounds (SwAV, Caron et al. 2020): each sense predicts the other's balanced codes."""

    builds: ClassVar[str] = "trichord.pretrain.objectives.av_prototypes.sinkhorn:SinkhornSwap"

    kind: Literal["sinkhorn"] = "sinkhorn"
    prototypes: PositiveInt = 512  # of both senses together
    temperature: PositiveFloat = 0.1
    epsilon: PositiveFloat = 0.05  # lower is harder; at ln(prototypes) and stuck, 0.03 has helped SwAV's users
    iterations: PositiveInt = 3
    frozen_steps: NonNegativeInt = 0  # prototypes stand still for so long

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
    """Audio-visual learning: a target made of clusters, and contrast of single clips across and within the senses."""

    builds: ClassVar[str] = "trichord.pretrain.objectives.av_prototypes.objective:AvPrototypes.of_run"
    # The clusters of the round before are begun with, and go with the weights of linear heads.
    fixed: ClassVar[tuple[str, ...]] = ("target.clusters",)

    kind: Literal["av_prototypes"] = "av_prototypes"
    clips: Annotated[DenseWindow | Segments | FullVideo, Field(discriminator="kind")] = DenseWindow(
        frames=16, clip_seconds=5.12
    )  # one, or two for contrast within a sense
    view: ViewSpec = ViewSpec(crop=RandomResizedCrop(size=224, scale=(0.4, 1.0)), flip_probability=0.5)
    sound: SoundSpec = KaldiFbank(frames=512)
    sound_seconds: PositiveFloat | None = None  # around the clip's middle; none: the clip's own stretch
    embedding_dim: PositiveInt | None = 128  # none: the pooled vectors themselves, as XDC clusters them
    hidden_dim: PositiveInt = 2048  # of the head that makes the embedding
    target: AnyTarget | None = PrototypeTarget()
    target_weight: NonNegativeFloat = 1.0
    cross_weight: NonNegativeFloat = 1.0  # of contrast between a clip's picture and its sound
    within_weight: NonNegativeFloat = 0.0  # of contrast between two clips of a video, in each sense
    temperature: PositiveFloat = 0.07  # of contrast of single clips
    learn_temperature: bool = False  # down to a hundredth, as CLIP does

    @model_validator(mode="after")
    def _is_possible(self) -> AvPrototypesSpec:
        count = self.clips.clip_count
        if count not in (1, 2) or self.view.crop.count > 1:
            raise ValueError("clips: expected one clip of a video, or two for within_weight; and one view of each")
        if self.within_weight and count != 2:
            raise ValueError("within_weight compares two clips of a video: set clips.clips=2")
        if self.embedding_dim is None and (self.cross_weight or (self.target and self.target.in_one_space)):
            raise ValueError(
                "embedding_dim=null takes the encoders' own vectors, whose lengths differ: they can be compared within "
                "their sense only. Give embedding_dim, or set cross_weight=0 and target.kind=labels"
            )
        if not (self.cross_weight or self.within_weight or (self.target and self.target_weight)):
            raise ValueError("nothing is learnt: target is null (or weighs 0), cross_weight and within_weight are 0")
        return self

    @property
    def parts(self) -> tuple[str, ...]:
        """The networks in a checkpoint, first the one to take away."""
        return ("video", "audio")

    def sample_spec(self) -> SampleSpec:
        """Say what a sample must bring."""
        views = ViewsSpec(clips=self.clips, views=(self.view,), flips=self.flips)
        return SampleSpec(views=views, sound=self.sound, sound_seconds=self.sound_seconds, sound_of="each_clip")
