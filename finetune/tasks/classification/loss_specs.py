"""Recipe settings of the classification loss: one class per clip, or yes or no per class; importable without torch."""

from __future__ import annotations

from abc import ABC
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat

from trichord.core.registry import Registry, one_of

_LOSSES = "trichord.finetune.tasks.classification.losses"


class LossSpec(BaseModel, ABC):
    """Settings common to all losses."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    computes: ClassVar[str]  # "module:function" that takes this spec, logits_BK, targets_BK and pos_weight_K
    is_multi_label: ClassVar[bool] = True  # a clip may have several classes, or none

    kind: str
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each target that is spread evenly over all classes or, where each class is a yes or no, over yes and
    no."""

    @property
    def counts_classes(self) -> bool:
        """Whether the positive weights are counted over the training set."""
        return False

    @property
    def fixed_pos_weight(self) -> float:
        """The weight of a positive relative to a negative, if it is not counted."""
        return 1.0


class CrossEntropySpec(LossSpec):
    """Cross-entropy: one class for each clip."""

    is_multi_label: ClassVar[bool] = False
    computes: ClassVar[str] = f"{_LOSSES}:cross_entropy"

    kind: Literal["cross_entropy"] = "cross_entropy"


class BinarySpec(LossSpec):
    """Binary cross-entropy: any number of classes for a clip, each yes or no independently."""

    computes: ClassVar[str] = f"{_LOSSES}:binary"

    kind: Literal["binary"] = "binary"
    pos_weight: PositiveFloat | Literal["inverse_frequency"] = 1.0
    """Weight of a positive relative to a negative; `inverse_frequency` is, for each class, the number of clips without
    it per clip with it, counted once over the training set."""

    @property
    def counts_classes(self) -> bool:
        return self.pos_weight == "inverse_frequency"

    @property
    def fixed_pos_weight(self) -> float:
        return 1.0 if isinstance(self.pos_weight, str) else self.pos_weight


class FocalSpec(LossSpec):
    """Focal loss: yes or no for each class, with less weight for confident right predictions (Lin et al. 2017)."""

    computes: ClassVar[str] = f"{_LOSSES}:focal_loss"

    kind: Literal["focal"] = "focal"
    gamma: NonNegativeFloat = 2.0
    """Power of (1 - probability of the truth) by which a term is weighted; 0 weights all terms equally."""
    alpha: float | None = Field(default=0.25, ge=0, le=1)
    """Weight of positives, with 1 - alpha for negatives; null gives both a weight of 1."""


class AsymmetricSpec(LossSpec):
    """Asymmetric loss: yes or no for each class, with little weight for easy negatives, and none for those below the
    margin (Ridnik et al. 2021)."""

    computes: ClassVar[str] = f"{_LOSSES}:asymmetric_loss"

    kind: Literal["asymmetric"] = "asymmetric"
    gamma_yes: NonNegativeFloat = 0.0
    """Power of (1 - probability) by which positives are weighted; 0 weights all of them equally."""
    gamma_no: NonNegativeFloat = 4.0
    """Power of the probability by which negatives are weighted; higher neglects easy ones more."""
    margin: float = Field(default=0.05, ge=0, lt=1)
    """Number subtracted from the probability of a negative; negatives below it do not count."""


LOSSES: Registry[type[LossSpec]] = Registry(
    "losses",
    {
        "cross_entropy": f"{__name__}:CrossEntropySpec",
        "binary": f"{__name__}:BinarySpec",
        "focal": f"{__name__}:FocalSpec",
        "asymmetric": f"{__name__}:AsymmetricSpec",
    },
)
if TYPE_CHECKING:
    AnyLoss = LossSpec
else:
    AnyLoss = one_of(LOSSES)
