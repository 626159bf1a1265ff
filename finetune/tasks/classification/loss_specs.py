"""What a recipe says of the loss of a classification: one class a clip, or a yes or no for each; read without torch."""

from __future__ import annotations

from abc import ABC
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat

from trichord.core.registry import Registry, one_of

_LOSSES = "trichord.finetune.tasks.classification.losses"


class LossSpec(BaseModel, ABC):
    """What every loss has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    computes: ClassVar[str]  # "module:function" of this spec, logits_BK, targets_BK and pos_weight_K
    is_multi_label: ClassVar[bool] = True  # a clip may have several classes, or none

    kind: str
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)

    @property
    def counts_classes(self) -> bool:
        """Whether the weight of a yes is counted over the training set."""
        return False

    @property
    def fixed_pos_weight(self) -> float:
        """What a yes counts against a no, where it is not counted."""
        return 1.0


class CrossEntropySpec(LossSpec):
    """One class for each clip."""

    is_multi_label: ClassVar[bool] = False
    computes: ClassVar[str] = f"{_LOSSES}:cross_entropy"

    kind: Literal["cross_entropy"] = "cross_entropy"


class BinarySpec(LossSpec):
    """Several classes for a clip, each a yes or no of its own, or none."""

    computes: ClassVar[str] = f"{_LOSSES}:binary"

    kind: Literal["binary"] = "binary"
    # What a yes counts against a no; inverse_frequency: as many times as there are clips without the class for each
    # with it, counted once over the training set.
    pos_weight: PositiveFloat | Literal["inverse_frequency"] = 1.0

    @property
    def counts_classes(self) -> bool:
        return self.pos_weight == "inverse_frequency"

    @property
    def fixed_pos_weight(self) -> float:
        return 1.0 if isinstance(self.pos_weight, str) else self.pos_weight


class FocalSpec(LossSpec):
    """Yes or no for each class, and what is told right already counts little (Lin et al. 2017)."""

    computes: ClassVar[str] = f"{_LOSSES}:focal_loss"

    kind: Literal["focal"] = "focal"
    gamma: NonNegativeFloat = 2.0  # how little: (1 - probability of what is right) to this power
    alpha: float | None = Field(default=0.25, ge=0, le=1)  # what a yes counts, and 1 - alpha a no; None: both 1


class AsymmetricSpec(LossSpec):
    """Yes or no for each class; of the many easy noes little is left, and below the margin nothing (Ridnik 2021)."""

    computes: ClassVar[str] = f"{_LOSSES}:asymmetric_loss"

    kind: Literal["asymmetric"] = "asymmetric"
    gamma_yes: NonNegativeFloat = 0.0
    gamma_no: NonNegativeFloat = 4.0
    margin: float = Field(default=0.05, ge=0, lt=1)  # taken off the probability of a no's class


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
