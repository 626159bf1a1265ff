"""Goal 8: our losses over pairs beside open_clip's, as ratios of CPU time and of memory, and how memory grows.

All run in one process with one thread and take turns round by round; the first round warms up and compares losses and
gradients. The ratio is the median over the other rounds. That is done twice: with the system's allocator as it is, and
with the settings that `trichord pretrain` makes. Peaks of memory are those of a process for each, by the allocator as
it is, above what the rows take themselves.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.training.contrast_contenders import CONTENDERS, OPEN_CLIP, OURS, ContrastCase, forward_and_backward
from benchmarks.training.growth import LARGEST_EXPONENT, exponent
from benchmarks.training.models import largest_difference
from trichord.core.errors import UserError
from trichord.pretrain.engine.allocator import apply

LARGEST_DIFFERENCE = 1e-5  # of losses and gradients, relative to the largest value of each
AS_IT_IS = "as it is"
BATCHES = (1024, 4096, 16384)
GOALS = {1024: 1.0, 4096: 1.0, 16384: 1.8}  # times as fast as open_clip's ClipLoss
MEMORY_GOALS = {16384: 15.0}  # times as little memory
GROWING_BATCHES = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
LARGEST_OF_OPEN_CLIP = 16384  # four times as many pairs would take it 64 GiB


class Laps(NamedTuple):
    """What came of taking turns."""

    ratios: list[float]
    seconds: dict[str, list[float]]
    apart: float


def run_contrast_bench(
    cases: Sequence[ContrastCase], rounds: int, beat: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """Measure each case; gives a row for each and for each way with memory."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        mib = [{name: peak_mib(name, case, beat) for name in (OURS, OPEN_CLIP)} for case in cases]
        as_it_is = [_take_turns(case, rounds, beat) for case in cases]
        apply()  # there is no way back, so this comes last
        tuned = [_take_turns(case, rounds, beat) for case in cases]
    finally:
        torch.set_num_threads(threads)
    return [
        _row(case, settings, laps[number], mib[number])
        for number, case in enumerate(cases)
        for settings, laps in ((AS_IT_IS, as_it_is), ("of trichord pretrain", tuned))
    ]


def run_memory_bench(
    batches: Sequence[int] = GROWING_BATCHES, dim: int = 512, beat: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """Measure InfoNCE's peaks of memory by the size of the global batch; gives a row for us and one for open_clip."""
    rows = []
    for name in (OURS, OPEN_CLIP):
        measured = [batch for batch in batches if name == OURS or batch <= LARGEST_OF_OPEN_CLIP]
        mib = [peak_mib(name, ContrastCase(loss="info_nce", batch=batch, dim=dim), beat) for batch in measured]
        fitted = exponent(measured, mib)
        rows.append(
            {
                "whose": name,
                **{
                    f"{batch} pairs, MiB": round(mib[place], 1) if place < len(mib) else None
                    for place, batch in enumerate(batches)
                },
                "exponent": round(fitted, 2),
                "goal": f"at most {LARGEST_EXPONENT:g}" if name == OURS else None,
                "met": fitted <= LARGEST_EXPONENT if name == OURS else None,
            }
        )
    return rows


def _take_turns(case: ContrastCase, rounds: int, beat: Callable[[], None]) -> Laps:
    losses, given = {name: make(case) for name, make in CONTENDERS.items()}, case.inputs()
    seconds: dict[str, list[float]] = {name: [] for name in losses}
    found: dict[str, list[Tensor]] = {}
    apart = 0.0
    for number in range(rounds + 1):
        for name in losses if number % 2 else reversed(losses):
            started = time.process_time()
            results = forward_and_backward(losses[name], given)
            seconds[name] += [time.process_time() - started] if number else []
            found |= {} if number else {name: results}
            del results
            beat()
        if number == 0:
            apart = largest_difference(found[OURS], found[OPEN_CLIP])
            found.clear()
    ratios = [other / own for own, other in zip(seconds[OURS], seconds[OPEN_CLIP], strict=True)]
    return Laps(sorted(ratios), seconds, apart)


def _row(case: ContrastCase, settings: str, laps: Laps, mib: Mapping[str, float]) -> dict[str, Any]:
    has_goals = case.loss == "info_nce" and settings == AS_IT_IS
    goal = GOALS.get(case.batch) if has_goals else None
    memory_goal = MEMORY_GOALS.get(case.batch) if has_goals else None
    ratio, memory_ratio = statistics.median(laps.ratios), mib[OPEN_CLIP] / mib[OURS]
    is_same = laps.apart <= LARGEST_DIFFERENCE
    is_met = is_same and ratio >= (goal or 0) and memory_ratio >= (memory_goal or 0)
    return {
        "loss": case.loss,
        "pairs": case.batch,
        "allocator": settings,
        "ours_ms": round(1e3 * statistics.median(laps.seconds[OURS])),
        "open_clip_ms": round(1e3 * statistics.median(laps.seconds[OPEN_CLIP])),
        "ratio": round(ratio, 2),
        "range": (round(laps.ratios[0], 2), round(laps.ratios[-1], 2)),
        "goal": goal,
        "ours_mib": round(mib[OURS]),
        "open_clip_mib": round(mib[OPEN_CLIP]),
        "memory_ratio": round(memory_ratio, 1),
        "memory_goal": memory_goal,
        "met": is_met if goal else None,
        "apart": float(f"{laps.apart:.1e}"),
        "note": "" if is_same else f"results differ by more than {LARGEST_DIFFERENCE:g}: not the same work",
    }


def peak_mib(name: str, case: ContrastCase, beat: Callable[[], None] = lambda: None) -> float:
    """Say how much memory one pass of a contender takes in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.training.contrast_contenders", name, case.model_dump_json()]
    done = subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(
            f"bench contrast: the process of {name!r} ended with exit status {done.returncode}; "
            "-9 says that memory ran out"
        )
    beat()
    return float(done.stdout)
