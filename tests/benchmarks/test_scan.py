"""The scan benchmark: equal work for all contenders."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.harness import AS_IT_IS, Turns
from benchmarks.training import scan
from benchmarks.training.scan import (
    LOOP,
    MAMBAPY,
    OURS,
    ScanCase,
    contenders,
    forward_and_backward,
    run_scan_bench,
)
from trichord.core.errors import UserError

SMALL = ScanCase(batch=2, channels=8, length=29, states=4)


def test_all_contenders_return_the_same_results() -> None:
    given = SMALL.inputs()
    expected = forward_and_backward(contenders()[OURS], given)
    assert len(expected) == 1 + len(given) and all(tensor.any() for tensor in expected)
    for name, other in contenders().items():
        for one, two in zip(forward_and_backward(other, given), expected, strict=True):
            torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4, msg=name)


def test_every_case_has_a_row_for_each_other_contender() -> None:
    beats: list[None] = []
    threads = torch.get_num_threads()
    rows = run_scan_bench({"small": SMALL}, rounds=1, beat=lambda: beats.append(None))
    others = [name for name in contenders() if name != OURS]
    ways = ["as it is", "of trichord pretrain"]
    assert [(row["allocator"], row["against"]) for row in rows] == [(way, name) for way in ways for name in others]
    for row in rows:
        assert row["size"] == "small" and row["note"] == "" and row["apart"] <= 1e-4
        is_goal = (row["allocator"], row["against"]) == ("as it is", MAMBAPY)
        assert (row["goal"], row["met"] is None) == ((5.0, False) if is_goal else (None, True))
    assert len(beats) == 2 * 2 * len(contenders()) and json.dumps(rows)
    assert torch.get_num_threads() == threads


def test_goal_requires_equal_results_and_small_memory() -> None:
    seconds, mib = {OURS: [1.0, 3.0], MAMBAPY: [9.0, 6.0]}, {OURS: 10.0, MAMBAPY: 60.0}
    row = scan._row("some", MAMBAPY, AS_IT_IS, Turns(seconds, {MAMBAPY: [1e-6]}), mib)
    assert (row["ratio"], row["memory_ratio"], row["met"], row["note"]) == (6.0, 6.0, True, "")
    row = scan._row("some", MAMBAPY, AS_IT_IS, Turns(seconds, {MAMBAPY: [1e-3]}), mib)
    assert row["met"] is False and row["note"] == "results differ by more than 0.0001: not the same work"
    row = scan._row("some", MAMBAPY, AS_IT_IS, Turns(seconds, {MAMBAPY: [1e-6]}), mib | {MAMBAPY: 40.0})
    assert row["met"] is False


def test_without_mambapy_the_loop_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan.importlib.util, "find_spec", lambda name: None)
    assert list(contenders()) == [OURS, LOOP]


def test_failed_process_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="process of 'unknown' ended with exit status 1"):
        scan.peak_mib("unknown", SMALL)
    assert "KeyError" in capfd.readouterr().err
