"""The step's measurement is one of equal work: same losses through updates of student, teacher and centre."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from benchmarks.training import step
from benchmarks.training.step import Contender, Lap, run_step_bench
from benchmarks.training.step_contenders import Ours, Released, StepCase
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


def test_both_take_the_same_steps() -> None:
    ours, released = Ours(SMALL), Released(SMALL)
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


def test_other_work_meets_no_goal() -> None:
    ours = [Lap(cpu_s=1.0, loss=5.0, peak_mib=100.0)] * 3
    theirs = [replace(lap, cpu_s=2.0, peak_mib=150.0) for lap in ours]
    assert step._row("tiny", "few", step.AS_IT_IS, ours, theirs)["met"] is True
    assert step._row("tiny", "few", "another", ours, theirs)["met"] is None
    row = step._row("tiny", "few", step.AS_IT_IS, ours, [*theirs[:2], replace(theirs[2], loss=5.001)])
    assert row["met"] is False and row["note"] == "losses differ by more than 1e-05: not the same work"
    assert (row["ratio"], row["memory_ratio"]) == (2.0, 1.5)


def test_a_contender_that_dies_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    impossible = SMALL.model_copy(update={"local_size": 33})
    with Contender("ours", impossible, is_tuned=True) as contender, pytest.raises(UserError, match="process of 'ours'"):
        contender.step()
    capfd.readouterr()


def test_a_case_survives_the_way_to_another_process() -> None:
    assert StepCase.model_validate_json(SMALL.model_dump_json()) == SMALL
    assert [tuple(view.shape[2:]) for view in SMALL.views(0)] == [
        (4, 48, 48),
        (8, 48, 48),
        (2, 32, 32),
        (8, 32, 32),
        (16, 32, 32),
    ]
