"""Goal 7: our selective scan beside mambapy's and a loop over time, as ratios of CPU time and of memory.

All run in one process with one thread and the allocator's settings of `trichord pretrain`, and take turns round by
round. The first warms up; of the others the least time counts, for whatever else the machine does only adds to it.
Peaks of memory are those of a process for each, by the system's own allocator.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pretrain.bench.scan_contenders import LOOP, MAMBAPY, OURS, ScanCase, contenders, forward_and_backward
from pretrain.engine.allocator import apply
from shards.errors import UserError

GOAL, MEMORY_GOAL = 5.0, 5.0  # times as fast as mambapy, times as little memory
LARGEST_DIFFERENCE = 1e-4  # of answers and gradients, relative to the largest value of each
CASES = {
    "one clip, 1152 channels": ScanCase(batch=1, channels=1152),
    "four clips, 768 channels": ScanCase(batch=4, channels=768),
}


def run_scan_bench(
    cases: Mapping[str, ScanCase], rounds: int, beat: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """Measure each case; gives a row for each and for each of the others."""
    threads = torch.get_num_threads()
    apply()
    torch.set_num_threads(1)
    try:
        return [row for name, case in cases.items() for row in _measure(name, case, rounds, beat)]
    finally:
        torch.set_num_threads(threads)


def _measure(name: str, case: ScanCase, rounds: int, beat: Callable[[], None]) -> list[dict[str, Any]]:
    scans, given = contenders(), case.inputs()
    seconds: dict[str, list[float]] = {each: [] for each in scans}
    expected: list[Tensor] = []
    apart: dict[str, float] = {}
    for number in range(rounds + 1):
        for each, scan in scans.items():
            started = time.process_time()
            results = forward_and_backward(scan, given)
            if number:
                seconds[each].append(time.process_time() - started)
            else:
                expected = expected or results  # ours come first
                apart[each] = _largest_difference(results, expected)
            del results
            beat()
    mib = {each: _peak_mib(each, case) for each in scans}
    return [_row(name, each, seconds, mib, apart[each]) for each in (MAMBAPY, LOOP) if each in scans]


def _row(
    name: str, against: str, seconds: Mapping[str, list[float]], mib: Mapping[str, float], apart: float
) -> dict[str, Any]:
    ratio, memory_ratio = min(seconds[against]) / min(seconds[OURS]), mib[against] / mib[OURS]
    is_same, is_goal = apart <= LARGEST_DIFFERENCE, against == MAMBAPY
    return {
        "size": name,
        "against": against,
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
    words = [sys.executable, "-m", "pretrain.bench.scan_contenders", name, case.model_dump_json()]
    done = subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(
            f"bench scan: the process of {name!r} ended with exit status {done.returncode}; -9 says that memory ran out"
        )
    return float(done.stdout)
