"""The step benchmark: equal losses through updates of student, teacher and centre."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.processes import RemoteContender
from benchmarks.training import step
from benchmarks.training.step import (
    OURS,
    RELEASED,
    RELEASED_TUNED,
    OurStep,
    ReleasedStep,
    StepCase,
    StepResult,
    make_lap,
    run_step_bench,
)
from trichord.core.errors import UserError

SMALL = StepCase(
    dim=32,
    depth=2,
    heads=2,
    global_frames=(4, 8),
    local_frames=(2, 8, 16),
    global_size=48,
    local_size=32,
    batch=2,
    prototypes=512,
)


def test_both_contenders_take_the_same_steps() -> None:
    ours, released = OurStep(SMALL), ReleasedStep(SMALL)
    before = ours.svt.teacher.head.mlp[0].weight.clone()
    losses: list[tuple[float, float]] = []
    for number in range(4):
        for contender in (ours, released):
            contender.prepare(SMALL.views(number))
        losses.append((ours.step(number), released.step(number)))
    for mine, other in losses:
        assert mine == pytest.approx(other, rel=1e-5)
    assert len({round(mine, 4) for mine, _ in losses}) == 4
    torch.testing.assert_close(ours.svt.centre_K, released.loss.centre[0], rtol=1e-4, atol=1e-6)
    theirs = dict(released.teacher.named_parameters())
    for name, parameter in ours.svt.teacher.named_parameters():
        torch.testing.assert_close(parameter, theirs[name], rtol=1e-4, atol=1e-6)
    assert not torch.equal(ours.svt.teacher.head.mlp[0].weight, before)


def test_every_case_measures_equal_work() -> None:
    beats: list[None] = []
    rows = run_step_bench({("small one", "few"): SMALL}, rounds=1, beat=lambda: beats.append(None))
    assert [row["against"] for row in rows] == ["released code", "released code, our allocator settings"]
    for row in rows:
        assert row["network"] == "small one" and row["views"] == "few" and row["note"] == ""
        assert row["losses_apart"] <= 1e-5 and row["ratio"] > 0 < row["ours_s"]
        assert row["memory_ratio"] == pytest.approx(row["theirs_mib"] / row["ours_mib"], abs=0.01)
    assert len(beats) == 3 * 2 and json.dumps(rows)


def test_goal_requires_equal_losses() -> None:
    seconds = {OURS: [1.0] * 2, RELEASED: [2.0] * 2, RELEASED_TUNED: [2.0] * 2}
    ours, theirs = ([StepResult(loss=5.0, peak_mib=peak)] * 3 for peak in (100.0, 150.0))
    results = {OURS: ours, RELEASED: theirs, RELEASED_TUNED: theirs}
    assert step._row("tiny", "few", RELEASED, seconds, results)["met"] is True
    assert step._row("tiny", "few", RELEASED_TUNED, seconds, results)["met"] is None
    results[RELEASED] = [*theirs[:2], theirs[2]._replace(loss=5.001)]
    row = step._row("tiny", "few", RELEASED, seconds, results)
    assert row["met"] is False and row["note"] == "losses differ by more than 1e-05: not the same work"
    assert (row["ratio"], row["memory_ratio"]) == (2.0, 1.5)


def test_failed_contender_is_named() -> None:
    impossible = SMALL.model_copy(update={"local_size": 33})
    contender = RemoteContender(OURS, make_lap, OURS, impossible)
    with contender, pytest.raises(UserError, match="process of 'ours'"):
        contender.lap(0)


def test_case_survives_a_round_trip_through_json() -> None:
    assert StepCase.model_validate_json(SMALL.model_dump_json()) == SMALL
    assert [tuple(view.shape[2:]) for view in SMALL.views(0)] == [
        (4, 48, 48),
        (8, 48, 48),
        (2, 32, 32),
        (8, 32, 32),
        (16, 32, 32),
    ]
