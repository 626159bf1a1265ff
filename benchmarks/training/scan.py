"""Goal 7: our selective scan beside mambapy's and a loop over time, as ratios of CPU time and of memory.

All run in one process with one thread and take turns round by round. The first warms up; of the others the least time
counts, for whatever else the machine does only adds to it. That is done twice: with the system's allocator as it is,
and with the settings that `trichord pretrain` makes, which help most those who take much memory. Peaks of memory are
those of a process for each, by the allocator as it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.training.scan_contenders import MAMBAPY, OURS, ScanCase, contenders, forward_and_backward
from trichord.core.errors import UserError
from trichord.pretrain.engine.allocator import apply

GOAL, MEMORY_GOAL = 5.0, 5.0  # times as fast as mambapy as it is, times as little memory
AS_IT_IS = "as it is"
LARGEST_DIFFERENCE = 1e-4  # of answers and gradients, relative to the largest value of each
CASES = {
    "one clip, 1152 channels": ScanCase(batch=1, channels=1152),
    "four clips, 768 channels": ScanCase(batch=4, channels=768),
}


class Laps(NamedTuple):
    """What came of taking turns, by name of the contender."""

    seconds: dict[str, list[float]]
    apart: dict[str, float]


def run_scan_bench(
    cases: Mapping[str, ScanCase], rounds: int, beat: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """Measure each case; gives a row for each, for each of the others, and for each way with memory."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        mib = {(size, name): _peak_mib(name, case) for size, case in cases.items() for name in contenders()}
        as_it_is = {size: _take_turns(case, rounds, beat) for size, case in cases.items()}
        apply()  # there is no way back, so this comes last
        tuned = {size: _take_turns(case, rounds, beat) for size, case in cases.items()}
    finally:
        torch.set_num_threads(threads)
    return [
        _row(size, name, settings, laps[size], {each: mib[size, each] for each in contenders()})
        for size in cases
        for settings, laps in ((AS_IT_IS, as_it_is), ("of trichord pretrain", tuned))
        for name in contenders()
        if name != OURS
    ]


def _take_turns(case: ScanCase, rounds: int, beat: Callable[[], None]) -> Laps:
    scans, given = contenders(), case.inputs()
    laps = Laps({name: [] for name in scans}, {})
    expected: list[Tensor] = []
    for number in range(rounds + 1):
        for name, scan in scans.items():
            started = time.process_time()
            results = forward_and_backward(scan, given)
            if number:
                laps.seconds[name].append(time.process_time() - started)
            else:
                expected = expected or results  # ours come first
                laps.apart[name] = _largest_difference(results, expected)
            del results
            beat()
    return laps


def _row(size: str, against: str, settings: str, laps: Laps, mib: Mapping[str, float]) -> dict[str, Any]:
    seconds, apart = laps.seconds, laps.apart[against]
    ratio, memory_ratio = min(seconds[against]) / min(seconds[OURS]), mib[against] / mib[OURS]
    is_same, is_goal = apart <= LARGEST_DIFFERENCE, (against, settings) == (MAMBAPY, AS_IT_IS)
    return {
        "size": size,
        "against": against,
        "allocator": settings,
        "ours_ms": round(min(seconds[OURS]) * 1e3),
        "theirs_ms": round(min(seconds[against]) * 1e3),
        "ratio": round(ratio, 2),
        "goal": GOAL if is_goal else None,
        "ours_mib": round(mib[OURS]),
        "theirs_mib": round(mib[against]),
        "memory_ratio": round(memory_ratio, 2),
        "memory_goal": MEMORY_GOAL if is_goal else None,
        "met": is_same and ratio >= GOAL and memory_ratio >= MEMORY_GOAL if is_goal else None,
        "apart": float(f"{apart:.1e}"),
        "note": "" if is_same else f"results differ by more than {LARGEST_DIFFERENCE:g}: not the same work",
    }


def _largest_difference(found: list[Tensor], expected: list[Tensor]) -> float:
    return max(
        ((one - other).abs().max() / other.abs().max()).item() for one, other in zip(found, expected, strict=True)
    )


def _peak_mib(name: str, case: ScanCase) -> float:
    words = [sys.executable, "-m", "benchmarks.training.scan_contenders", name, case.model_dump_json()]
    done = subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(
            f"bench scan: the process of {name!r} ended with exit status {done.returncode}; -9 says that memory ran out"
        )
    return float(done.stdout)
