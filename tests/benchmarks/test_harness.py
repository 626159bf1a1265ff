"""What the comparisons share: the order of contenders, ratios of times, contenders in processes, and memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

from benchmarks.harness import Ratio, conditions, largest_difference, take_turns, timed
from benchmarks.processes import RemoteContender, memory_mib, peak_growth_mib, run_alone
from trichord.core.errors import UserError


def test_contenders_alternate_and_the_first_round_is_compared_but_not_timed() -> None:
    laps: list[tuple[str, int]] = []
    beats: list[None] = []

    def lap(name: str, case: int) -> tuple[float, int]:
        laps.append((name, case))
        return float(len(laps)), case + (name == "b")

    turns = take_turns(
        ("a", "b"), (10, 20), 2, lap, lambda: beats.append(None), lambda found, expected: found - expected
    )
    first, second = ["a", "b"], ["b", "a"]
    orders = [[name for name, _ in laps[start : start + 2]] for start in range(0, 12, 2)]
    assert orders == [first, second, second, first, first, second]
    assert [case for _, case in laps] == [10, 10, 20, 20] * 3 and len(beats) == 12
    assert turns.seconds == {"a": [6.0, 7.0, 9.0, 12.0], "b": [5.0, 8.0, 10.0, 11.0]}
    assert turns.differences == {"a": [0, 0], "b": [1, 1]}


def test_timed_measures_with_the_given_clock() -> None:
    times = iter((3.0, 5.5))
    assert timed(lambda: "result", lambda: next(times)) == (2.5, "result")


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_ratio_pairs_the_calls_and_equals_numpy(count: int) -> None:
    rng = np.random.default_rng(count)
    ours_s, theirs_s = rng.uniform(1, 2, count), rng.uniform(1, 4, count)
    ratios = theirs_s / ours_s
    found = Ratio.of(list(ours_s), list(theirs_s))
    assert found.median == pytest.approx(np.median(ratios))
    assert found.range == pytest.approx((ratios.min(), ratios.max()), abs=0.005)
    assert found.quartiles == pytest.approx(tuple(np.quantile(ratios, (0.25, 0.75))), abs=0.005)


def test_largest_difference_is_relative_to_the_largest_value_of_each_tensor() -> None:
    expected = [torch.tensor([1.0, -4.0]), torch.tensor([100.0])]
    assert largest_difference(expected, expected) == 0
    assert largest_difference([torch.tensor([1.5, -4.0]), torch.tensor([101.0])], expected) == 0.125


def test_conditions_name_date_cores_and_commit() -> None:
    assert re.fullmatch(r"measured on \d{4}-\d\d-\d\d, \d+ cores? of .+, commit \S+", conditions())


def make_lap(start: int) -> Callable[[int], tuple[float, int]]:
    """Count calls in the process of the contender, which fails or exits on request."""
    calls = [start]

    def lap(step: int) -> tuple[float, int]:
        if step < 0:
            raise ValueError(f"no step {step}")
        if step == 0:
            raise SystemExit(3)
        calls[0] += step
        return 0.5, calls[0]

    return lap


def test_remote_contender_keeps_its_state_and_reports_failures() -> None:
    with RemoteContender("counter", make_lap, 10) as contender:
        assert [contender.lap(step) for step in (1, 2)] == [(0.5, 11), (0.5, 13)]
        with pytest.raises(UserError, match="the process of 'counter' failed: ValueError: no step -1"):
            contender.lap(-1)
        assert contender.lap(1) == (0.5, 14)
        with pytest.raises(UserError, match="the process of 'counter' ended with exit status 3"):
            contender.lap(0)


def test_run_alone_returns_lines_and_reports_a_failed_process(capfd: pytest.CaptureFixture[str]) -> None:
    (line,) = run_alone("tool", "json.tool", "--help")[:1]
    assert line.startswith("usage:")
    with pytest.raises(UserError, match="the process of 'tool' ended with exit status 2"):
        run_alone("tool", "json.tool", "--unknown")
    assert "unrecognized arguments" in capfd.readouterr().err


def make_allocation(mib: int) -> Callable[[], tuple[float, float]]:
    return lambda: (0.0, peak_growth_mib(partial(np.ones, mib << 17)))  # of 8 bytes


def test_peak_growth_is_that_of_the_work() -> None:
    with RemoteContender("allocation", make_allocation, 200) as contender:
        assert 195 < contender.lap()[1] < 230
    assert memory_mib("RssAnon") <= memory_mib("VmRSS") <= memory_mib("VmHWM")
