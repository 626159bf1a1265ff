"""Losses of classes as settings: one class for each clip, or a yes or no for each of several; read without torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)


class CrossEntropySpec(_Spec):
    """One class for each clip."""

    kind: Literal["cross_entropy"] = "cross_entropy"


class BinarySpec(_Spec):
    """Several classes for a clip, each a yes or no of its own, or none."""

    kind: Literal["binary"] = "binary"
    # What a yes counts against a no; inverse_frequency: as many times as there are clips without the class for each
    # with it, counted once over the training set.
    pos_weight: PositiveFloat | Literal["inverse_frequency"] = 1.0


class FocalSpec(_Spec):
    """Yes or no for each class, and what is told right already counts little (Lin et al. 2017)."""

    kind: Literal["focal"] = "focal"
    gamma: NonNegativeFloat = 2.0  # how little: (1 - probability of what is right) to this power
    alpha: float | None = Field(default=0.25, ge=0, le=1)  # what a yes counts, and 1 - alpha a no; None: both 1


class AsymmetricSpec(_Spec):
    """Yes or no for each class; of the many easy noes little is left, and below the margin nothing (Ridnik 2021)."""

    kind: Literal["asymmetric"] = "asymmetric"
    gamma_yes: NonNegativeFloat = 0.0
    gamma_no: NonNegativeFloat = 4.0
    margin: float = Field(default=0.05, ge=0, lt=1)  # taken off the probability of a no's class


LossSpec = Annotated[CrossEntropySpec | BinarySpec | FocalSpec | AsymmetricSpec, Field(discriminator="kind")]
