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
from collections.abc import Iterator
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


class ScheduleSpec(BaseModel, ABC):
    """Base of all schedules, with the warm-up."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    warmup_steps: NonNegativeInt = 0
    """Number of steps over which the value rises linearly from `warmup_from`; 0 for no warm-up."""
    warmup_from: FiniteFloat = 0.0
    """Value at the first step of the warm-up."""

    def at(self, step: int, steps: int) -> float:
        """Return the value at a step of a run of `steps` steps; after the last step it stays constant."""
        if step < self.warmup_steps:
            return _between(self.warmup_from, self._after_warmup(0.0, self.warmup_steps), step / self.warmup_steps)
        last = steps - 1
        share = (step - self.warmup_steps) / (last - self.warmup_steps) if step < last else 1.0
        return self._after_warmup(share, step)

    def complaints(self, name: str, steps: int) -> Iterator[str]:
        """Yield a message for each setting that does not fit a run of `steps` steps; `name` is the schedule's key."""
        if self.warmup_steps >= steps:
            yield (
                f"{name}.warmup_steps={self.warmup_steps} must be below steps={steps}: the run would end while "
                f"warming up. A twentieth of the run is {name}.warmup_steps={steps // 20}"
            )

    @abstractmethod
    def _after_warmup(self, share: float, step: int) -> float:
        """Return the value after the given share of the steps that follow the warm-up."""


class Constant(ScheduleSpec):
    """The same value at every step; without a warm-up, a recipe may give the number alone."""

    kind: Literal["constant"] = "constant"
    value: FiniteFloat
    """Value at every step after the warm-up."""

    @model_serializer(mode="wrap")
    def _as_number(self, dump: SerializerFunctionWrapHandler) -> Any:
        return dump(self) if self.warmup_steps else self.value

    def _after_warmup(self, share: float, step: int) -> float:
        return self.value


class Linear(ScheduleSpec):
    """A linear change from start to end."""

    kind: Literal["linear"] = "linear"
    start: FiniteFloat
    """Value after the warm-up."""
    end: FiniteFloat
    """Value at the last step of the run."""

    def _after_warmup(self, share: float, step: int) -> float:
        return _between(self.start, self.end, share)


class Cosine(ScheduleSpec):
    """Half a cosine period from start to end, slow at both ends."""

    kind: Literal["cosine"] = "cosine"
    start: FiniteFloat
    """Value after the warm-up."""
    end: FiniteFloat
    """Value at the last step of the run."""

    def _after_warmup(self, share: float, step: int) -> float:
        return _between(self.end, self.start, (1 + math.cos(math.pi * share)) / 2)


class Steps(ScheduleSpec):
    """A step function: multiplied by `factor` at each milestone."""

    kind: Literal["steps"] = "steps"
    start: FiniteFloat
    """Value from the end of the warm-up to the first milestone."""
    factor: FiniteFloat = 0.1
    """Factor by which the value is multiplied at each milestone."""
    milestones: tuple[NonNegativeInt, ...] = Field(min_length=1)
    """Steps at which the value is multiplied by `factor`, in increasing order."""

    @model_validator(mode="after")
    def _in_order(self) -> Steps:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must be strictly increasing, found {list(self.milestones)}")
        if self.milestones[0] <= self.warmup_steps:
            raise ValueError(
                f"the first milestone, {self.milestones[0]}, is within the warm-up of {self.warmup_steps} steps"
            )
        return self

    def complaints(self, name: str, steps: int) -> Iterator[str]:
        yield from super().complaints(name, steps)
        if self.milestones[-1] >= steps:
            yield f"{name}.milestones={list(self.milestones)} exceed the last step, {steps - 1}"

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
