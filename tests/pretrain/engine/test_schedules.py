"""Schedules: exact ends, and the formulas of the papers in between, including warm-up."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from trichord.pretrain.engine.config import OptimiserConfig
from trichord.pretrain.engine.schedules import Constant, Cosine, Linear, Schedule, Steps

VALUES = st.floats(-1e3, 1e3)


class Holder(BaseModel):
    """A model with a schedule, as in configs."""

    value: Schedule


@given(start=VALUES, end=VALUES, warmup=st.integers(0, 50), rest=st.integers(2, 500))
def test_both_ends_are_exact(start: float, end: float, warmup: int, rest: int) -> None:
    steps = warmup + rest
    for kind in (Linear, Cosine):
        schedule = kind(start=start, end=end, warmup_steps=warmup, warmup_from=0.5)
        assert schedule.at(warmup, steps) == start
        assert schedule.at(steps - 1, steps) == end
        assert schedule.at(steps + 1000, steps) == end
        assert schedule.at(0, steps) == (0.5 if warmup else start)


def test_warm_up_is_linear_from_its_first_value() -> None:
    for schedule in (
        Constant(value=4.0, warmup_steps=4, warmup_from=2.0),
        Linear(start=4.0, end=0.0, warmup_steps=4, warmup_from=2.0),
        Cosine(start=4.0, end=0.0, warmup_steps=4, warmup_from=2.0),
        Steps(start=4.0, milestones=(8,), warmup_steps=4, warmup_from=2.0),
    ):
        assert [schedule.at(step, 10) for step in range(5)] == [2.0, 2.5, 3.0, 3.5, 4.0]


def test_cosine_equals_that_of_torch() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=0.3)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=40, eta_min=0.01)
    ours = Cosine(start=0.3, end=0.01)
    for step in range(41):
        assert ours.at(step, 41) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimiser.step()
        theirs.step()


def test_cosine_after_warm_up_equals_that_of_dino() -> None:
    """DINO's table: `warmup` values, then a half wave; theirs stops a step before its end value."""
    schedule = Cosine(start=1.0, end=0.2, warmup_steps=100)
    for step in range(100, 1100):
        theirs = 0.2 + 0.5 * (1 - 0.2) * (1 + math.cos(math.pi * (step - 100) / 1000))
        assert schedule.at(step, 1100) == pytest.approx(theirs, abs=2e-3)


def test_linear_decreases_by_equal_amounts() -> None:
    assert [Linear(start=8.0, end=0.0).at(step, 5) for step in range(5)] == [8.0, 6.0, 4.0, 2.0, 0.0]


def test_step_schedule_falls_at_its_milestones() -> None:
    schedule = Steps(start=8.0, factor=0.5, milestones=(2, 4))
    assert [schedule.at(step, 6) for step in range(6)] == [8.0, 8.0, 4.0, 4.0, 2.0, 2.0]


def test_one_step_has_the_end_value() -> None:
    assert Cosine(start=1.0, end=0.25).at(0, 1) == 0.25


def test_a_plain_number_is_a_constant() -> None:
    assert Holder.model_validate({"value": 3}).value == Constant(value=3.0)
    assert Holder.model_validate({"value": {"kind": "linear", "start": 1, "end": 0}}).value == Linear(start=1, end=0)


@pytest.mark.parametrize(
    ("schedule", "written"),
    [
        (Constant(value=3.0), 3.0),
        (
            Constant(value=3.0, warmup_steps=2),
            {"warmup_steps": 2, "warmup_from": 0.0, "kind": "constant", "value": 3.0},
        ),
        (
            Steps(start=1.0, milestones=(5,)),
            {
                "warmup_steps": 0,
                "warmup_from": 0.0,
                "kind": "steps",
                "start": 1.0,
                "factor": 0.1,
                "milestones": [5],
            },
        ),
    ],
)
def test_schedule_survives_a_round_trip(schedule: Schedule, written: object) -> None:
    assert Holder(value=schedule).model_dump(mode="json") == {"value": written}
    assert Holder.model_validate({"value": written}).value == schedule


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (True, "valid dictionary"),
        (math.nan, "finite"),
        ({"kind": "sine", "start": 1}, "'constant', 'linear', 'cosine', 'steps'"),
        ({"kind": "cosine", "start": 1}, "end"),
        ({"kind": "steps", "start": 1, "milestones": [5, 5]}, "milestones must be strictly increasing"),
        ({"kind": "steps", "start": 1, "milestones": [5], "warmup_steps": 5}, "within the warm-up of 5 steps"),
    ],
)
def test_invalid_schedules_are_refused(value: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Holder.model_validate({"value": value})


def test_linear_scaling_multiplies_the_whole_curve() -> None:
    rate = Cosine(start=5e-4, end=8e-6)
    scaled = OptimiserConfig(learning_rate=rate, lr_reference_batch=256)
    assert scaled.learning_rate_at(0, 100, batch_size=32) == pytest.approx(6.25e-5)
    assert scaled.learning_rate_at(99, 100, batch_size=32) == pytest.approx(1e-6)
    assert OptimiserConfig(learning_rate=rate).learning_rate_at(0, 100, batch_size=32) == 5e-4
