"""Values that change during a run: learning rate, weight decay, momentum of a teacher, temperatures.

A schedule is a pure function of the step, so it has no state to save. With N steps, numbered from 0, and w of them
warm-up, the warm-up is

    warmup_from + (start - warmup_from) * step / w            for step < w

and the rest depends on p = (step - w) / (N - 1 - w), which is 0 at step w and 1 at the last step N - 1:

    constant   value
    linear     start (1 - p) + end p
    cosine     start c + end (1 - c) with c = (1 + cos(pi p)) / 2       (Loshchilov and Hutter 2017, one period)
    steps      start * factor^m, where m is the number of milestones <= step

So step w has exactly the start value and the last step exactly the end value. A plain number in a recipe is a constant
without warm-up.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)


class _Schedule(BaseModel, ABC):
    """Base of all schedules, with the warm-up."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    warmup_steps: NonNegativeInt = 0
    warmup_from: FiniteFloat = 0.0

    def at(self, step: int, steps: int) -> float:
        """Return the value at a step of a run of `steps` steps; after the last step it stays constant."""
        if step < self.warmup_steps:
            return _between(self.warmup_from, self._after_warmup(0.0, self.warmup_steps), step / self.warmup_steps)
        last = steps - 1
        share = (step - self.warmup_steps) / (last - self.warmup_steps) if step < last else 1.0
        return self._after_warmup(share, step)

    @abstractmethod
    def _after_warmup(self, share: float, step: int) -> float:
        """Return the value after the given share of the steps that follow the warm-up."""


class Constant(_Schedule):
    """The same value at every step."""

    kind: Literal["constant"] = "constant"
    value: FiniteFloat

    @model_serializer(mode="wrap")
    def _as_number(self, dump: SerializerFunctionWrapHandler) -> Any:
        return dump(self) if self.warmup_steps else self.value

    def _after_warmup(self, share: float, step: int) -> float:
        return self.value


class Linear(_Schedule):
    """A linear change from start to end."""

    kind: Literal["linear"] = "linear"
    start: FiniteFloat
    end: FiniteFloat

    def _after_warmup(self, share: float, step: int) -> float:
        return _between(self.start, self.end, share)


class Cosine(_Schedule):
    """Half a cosine period from start to end, slow at both ends."""

    kind: Literal["cosine"] = "cosine"
    start: FiniteFloat
    end: FiniteFloat

    def _after_warmup(self, share: float, step: int) -> float:
        return _between(self.end, self.start, (1 + math.cos(math.pi * share)) / 2)


class Steps(_Schedule):
    """A step function: multiplied by `factor` at each milestone."""

    kind: Literal["steps"] = "steps"
    start: FiniteFloat
    factor: FiniteFloat = 0.1
    milestones: tuple[NonNegativeInt, ...] = Field(min_length=1)  # steps

    @model_validator(mode="after")
    def _in_order(self) -> Steps:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must be strictly increasing, found {list(self.milestones)}")
        if self.milestones[0] <= self.warmup_steps:
            raise ValueError(
                f"the first milestone, {self.milestones[0]}, is within the warm-up of {self.warmup_steps} steps"
            )
        return self

    def _after_warmup(self, share: float, step: int) -> float:
        return self.start * self.factor ** sum(milestone <= step for milestone in self.milestones)


def _between(first: float, second: float, share: float) -> float:
    """Interpolate linearly, in a form that is exact at both ends."""
    return first * (1 - share) + second * share


def _number_is_constant(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return {"kind": "constant", "value": value} if is_number else value


Schedule = Annotated[
    Constant | Linear | Cosine | Steps, Field(discriminator="kind"), BeforeValidator(_number_is_constant)
]
