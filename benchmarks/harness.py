"""What every comparison shares: contenders that take turns, ratios of their times, and the conditions of a run.

Contenders alternate call by call, so that a change in the speed of the machine affects all of them alike. The time is
CPU time of the process unless a comparison says otherwise. The first round warms up: it is not timed, and the results
of the contenders are compared in it.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Case = TypeVar("Case")
Result = TypeVar("Result")
Difference = TypeVar("Difference")
Beat = Callable[[], None]  # called after each piece of work, for progress

AS_IT_IS, TUNED = "as it is", "of trichord pretrain"  # settings of the memory allocator


@dataclass(frozen=True)
class Turns(Generic[Difference]):
    """The times of contenders that took turns, and how much their results differ."""

    seconds: dict[str, list[float]]  # by contender: one per timed round and case, in that order
    differences: dict[str, list[Difference]]  # by contender: one per case, from the result of the first contender


@dataclass(frozen=True)
class Ratio:
    """The time of a contender over ours, call by call."""

    median: float
    range: tuple[float, float]
    quartiles: tuple[float, float]

    @classmethod
    def of(cls, ours_s: Sequence[float], theirs_s: Sequence[float]) -> Ratio:
        """Pair the times of the same round and case; all results are rounded to two decimals, the median is not."""
        ratios = sorted(theirs / ours for ours, theirs in zip(ours_s, theirs_s, strict=True))
        lower, upper = (_quantile(ratios, share) for share in (0.25, 0.75))
        return cls(
            median=statistics.median(ratios),
            range=(round(ratios[0], 2), round(ratios[-1], 2)),
            quartiles=(round(lower, 2), round(upper, 2)),
        )


def timed(work: Callable[[], Result], clock: Callable[[], float] = time.process_time) -> tuple[float, Result]:
    """Do the work; return the seconds that it took and its result."""
    started = clock()
    result = work()
    return clock() - started, result


def take_turns(
    names: Sequence[str],
    cases: Sequence[Case],
    rounds: int,
    lap: Callable[[str, Case], tuple[float, Result]],
    beat: Beat,
    difference: Callable[[Result, Result], Difference] | None = None,
) -> Turns[Difference]:
    """Call every contender on every case, in one round that warms up and in the rounds that are timed.

    Args:
        names: The contenders; the results of the first one are what the others are compared with.
        cases: What each contender is called on, in each round.
        rounds: The number of timed rounds.
        lap: Calls a contender on a case; returns the seconds and the result, as `timed` does.
        beat: Called after each lap.
        difference: Compares the result of a contender with the expected one, in the first round.
    """
    turns: Turns[Difference] = Turns({name: [] for name in names}, {name: [] for name in names})
    for number in range(rounds + 1):
        for place, case in enumerate(cases):
            results: dict[str, Result] = {}
            first = (number + place) % len(names)
            for name in (*names[first:], *names[:first]):
                seconds, result = lap(name, case)
                if number:
                    turns.seconds[name].append(seconds)
                elif difference:
                    results[name] = result
                del result  # a large result must not be alive while the next contender runs
                beat()
            if difference and results:
                for name in names:
                    turns.differences[name].append(difference(results[name], results[names[0]]))
    return turns


def largest_difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest difference between tensors, relative to the largest value of each expected one."""
    return max(
        ((one - other).abs().max() / other.abs().max()).item() for one, other in zip(found, expected, strict=True)
    )


def conditions() -> str:
    """Return the line that belongs to every figure: the date, the processor, its cores and the commit."""
    cores = len(os.sched_getaffinity(0))
    plural = "" if cores == 1 else "s"
    return f"measured on {date.today()}, {cores} core{plural} of {_processor()}, commit {_commit()}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Interpolate between neighbours, as numpy.quantile does."""
    below, weight = divmod(share * (len(ordered) - 1), 1)
    above = min(int(below) + 1, len(ordered) - 1)
    return ordered[int(below)] * (1 - weight) + ordered[above] * weight
