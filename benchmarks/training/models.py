"""Goals 9 to 11: our backbones beside Hugging Face's, as ratios of CPU time and of memory, going forward and backward.

All run in one process with one thread and the allocator's settings of `trichord pretrain`, with the same weights, and
take turns round by round; the first round warms up and compares what came out. The ratio is the median over the other
rounds. Peaks of memory are those of a process for each, by the system's own allocator.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.training.model_contenders import EAGER, OURS, OURS_BF16, SDPA, ModelCase, contenders
from trichord.core.errors import UserError
from trichord.pretrain.engine.allocator import apply

LARGEST_DIFFERENCE = 1e-4  # of tokens and of a gradient, relative to the largest value of each
LARGEST_DIFFERENCE_BF16 = 0.1


@dataclass(frozen=True)
class Contest:
    """Who is measured, and how many times as fast as each of the others it should be."""

    case: ModelCase
    goals: Mapping[str, float]
    measured: str = OURS
    memory_goals: Mapping[str, float] = field(default_factory=dict)  # times as little memory


_SMALL, _BASE = {"dim": 384, "heads": 6}, {"dim": 768, "heads": 12}


def _case(family: str, **sizes: int) -> ModelCase:
    return ModelCase.model_validate({"family": family} | sizes)


CONTESTS = {
    "ViViT 1, base, 16 frames": Contest(
        _case("vivit", frames=16, **_BASE), {EAGER: 1.3, SDPA: 1.0}, memory_goals={EAGER: 2.0}
    ),
    "TimeSformer, small": Contest(_case("timesformer", **_SMALL), {EAGER: 1.07}),
    "TimeSformer, base": Contest(_case("timesformer", **_BASE), {EAGER: 1.0}),
    "X-CLIP, small": Contest(_case("xclip", **_SMALL), {EAGER: 1.07, SDPA: 1.07}),
    "X-CLIP, base": Contest(_case("xclip", **_BASE), {EAGER: 1.0, SDPA: 1.0}),
    "TimeSformer in bf16, base": Contest(_case("timesformer", **_BASE), {OURS: 2.2}, OURS_BF16),
}


def measurable(contests: Mapping[str, Contest]) -> dict[str, Contest]:
    """Leave out bf16 where the processor has no arithmetic for it: emulated, a step would take many minutes."""
    has_bf16 = any(can for name, can in torch.cpu.get_capabilities().items() if "bf16" in name)
    return {name: each for name, each in contests.items() if has_bf16 or each.measured != OURS_BF16}


def run_model_bench(
    contests: Mapping[str, Contest], rounds: int, beat: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """Measure each contest; gives a row for each and for each of the others."""
    threads = torch.get_num_threads()
    apply()
    torch.set_num_threads(1)
    try:
        return [row for name, contest in contests.items() for row in _measure(name, contest, rounds, beat)]
    finally:
        torch.set_num_threads(threads)


def _measure(name: str, contest: Contest, rounds: int, beat: Callable[[], None]) -> list[dict[str, Any]]:
    names = (contest.measured, *contest.goals)
    taking_part, clip_BCTHW = contenders(contest.case, names), contest.case.clip()
    seconds: dict[str, list[float]] = {each: [] for each in names}
    expected: tuple[Tensor, ...] = ()
    apart: dict[str, float] = {}
    for number in range(rounds + 1):
        for each in names if number % 2 else reversed(names):
            started = time.process_time()
            results = taking_part[each].step(clip_BCTHW)
            seconds[each] += [time.process_time() - started] if number else []
            if number == 0:
                expected = expected or results
                apart[each] = largest_difference(results, expected)
            beat()
    mib = {each: _peak_mib(each, contest.case) for each in names if contest.memory_goals}
    largest = max(apart.values())
    return [_row(name, against, contest, seconds, mib, largest) for against in contest.goals]


def _row(
    name: str,
    against: str,
    contest: Contest,
    seconds: Mapping[str, Sequence[float]],
    mib: Mapping[str, float],
    apart: float,
) -> dict[str, Any]:
    ours_s, theirs_s = seconds[contest.measured], seconds[against]
    ratios = sorted(other / own for own, other in zip(ours_s, theirs_s, strict=True))
    ratio = statistics.median(ratios)
    memory_ratio = mib[against] / mib[contest.measured] if mib else None
    memory_goal = contest.memory_goals.get(against)
    limit = LARGEST_DIFFERENCE if contest.measured == OURS else LARGEST_DIFFERENCE_BF16
    is_small_enough = memory_goal is None or (memory_ratio is not None and memory_ratio >= memory_goal)
    return {
        "model": name,
        "against": against if contest.measured == OURS else "ours in fp32",
        "ours_s": round(statistics.median(ours_s), 2),
        "theirs_s": round(statistics.median(theirs_s), 2),
        "ratio": round(ratio, 2),
        "range": (round(ratios[0], 2), round(ratios[-1], 2)),
        "goal": contest.goals[against],
        "ours_mib": round(mib[contest.measured]) if mib else None,
        "theirs_mib": round(mib[against]) if mib else None,
        "memory_ratio": round(memory_ratio, 2) if memory_ratio else None,
        "memory_goal": memory_goal,
        "met": apart <= limit and ratio >= contest.goals[against] and is_small_enough,
        "apart": float(f"{apart:.1e}"),
        "note": "" if apart <= limit else f"results differ by more than {limit:g}: not the same work",
    }


def largest_difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Say how far results are apart, relative to the largest value of each."""
    return max(
        ((one - other).abs().max() / other.abs().max()).item() for one, other in zip(found, expected, strict=True)
    )


def _peak_mib(name: str, case: ModelCase) -> float:
    words = [sys.executable, "-m", "benchmarks.training.model_contenders", name, case.model_dump_json()]
    done = subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(
            f"bench models: the process of {name!r} ended with exit status {done.returncode}; "
            "-9 says that memory ran out"
        )
    return float(done.stdout)
