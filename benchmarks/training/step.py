"""Goal 13: one SVT step beside the released code's, as ratios of CPU time and of peak memory.

Each contender runs in a process of its own and they take turns step by step, so that a change of the machine's speed
meets all; what is counted is CPU time. The released code is measured twice, as it is and with the settings of the
memory allocator that `trichord pretrain` makes for itself.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from benchmarks.training.step_contenders import StepCase
from trichord.core.errors import UserError

AS_IT_IS = "released code"
GOAL = 1.2  # times as fast as the released code as it is
LARGEST_DIFFERENCE = 1e-5  # of losses, relative
ALIKE, VARIED = "8 frames everywhere", "8 and 16, locals 2 to 16 frames"
_NETWORKS = {
    "tiny": StepCase(dim=192, depth=12, heads=3),
    "small": StepCase(dim=384, depth=12, heads=6),
    "base": StepCase(dim=768, depth=12, heads=12),
}
_VARIED_FRAMES = {"global_frames": (8, 16), "local_frames": (2, 2, 4, 4, 8, 8, 16, 16)}
CASES = {
    (size, views): case.model_copy(update=frames)
    for size, case in _NETWORKS.items()
    for views, frames in ((ALIKE, {}), (VARIED, _VARIED_FRAMES))
}


@dataclass(frozen=True)
class Lap:
    """What a contender says of one step."""

    cpu_s: float
    loss: float
    peak_mib: float


class Contender:
    """A contender's process."""

    def __init__(self, name: str, case: StepCase, is_tuned: bool) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "benchmarks.training.step_contenders",
                name,
                case.model_dump_json(),
                "tuned" if is_tuned else "",
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def step(self) -> Lap:
        """Let it take its next step."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise UserError(
                f"bench step: the process of {self.name!r} ended with exit status {self._process.wait()}; "
                "-9 says that memory ran out. Next: fewer --sizes"
            )
        return Lap(**json.loads(answer))

    def __enter__(self) -> Contender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


def run_step_bench(
    cases: Mapping[tuple[str, str], StepCase], rounds: int, beat: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """Measure each case; gives a row for each and for each way to run the released code."""
    return [row for (size, views), case in cases.items() for row in _measure(size, views, case, rounds, beat)]


def _measure(size: str, views: str, case: StepCase, rounds: int, beat: Callable[[], None]) -> list[dict[str, Any]]:
    """Let all take turns; the first round warms up and does not count, except that losses must agree in it as well."""
    names = ("ours", AS_IT_IS, f"{AS_IT_IS}, our allocator settings")
    with ExitStack() as stack:
        contenders = [
            stack.enter_context(Contender("ours", case, is_tuned=True)),
            stack.enter_context(Contender("released", case, is_tuned=False)),
            stack.enter_context(Contender("released", case, is_tuned=True)),
        ]
        laps: dict[str, list[Lap]] = {name: [] for name in names}
        for number in range(rounds + 1):
            turn = number % len(names)
            order = list(zip(names, contenders, strict=True))
            for name, contender in order[turn:] + order[:turn]:
                laps[name].append(contender.step())
                beat()
    return [_row(size, views, name, laps["ours"], laps[name]) for name in names[1:]]


def _row(size: str, views: str, against: str, ours: Sequence[Lap], theirs: Sequence[Lap]) -> dict[str, Any]:
    ratios = sorted(other.cpu_s / own.cpu_s for own, other in zip(ours[1:], theirs[1:], strict=True))
    ratio = statistics.median(ratios)
    apart = max(abs(own.loss - other.loss) / abs(other.loss) for own, other in zip(ours, theirs, strict=True))
    is_same = apart <= LARGEST_DIFFERENCE
    return {
        "network": size,
        "views": views,
        "against": against,
        "ours_s": round(statistics.median(lap.cpu_s for lap in ours[1:]), 2),
        "theirs_s": round(statistics.median(lap.cpu_s for lap in theirs[1:]), 2),
        "ratio": round(ratio, 2),
        "range": (round(ratios[0], 2), round(ratios[-1], 2)),
        "goal": GOAL if against == AS_IT_IS else None,
        "met": is_same and ratio >= GOAL if against == AS_IT_IS else None,
        "ours_mib": round(ours[-1].peak_mib),
        "theirs_mib": round(theirs[-1].peak_mib),
        "memory_ratio": round(theirs[-1].peak_mib / ours[-1].peak_mib, 2),
        "losses_apart": float(f"{apart:.1e}"),
        "note": "" if is_same else f"losses differ by more than {LARGEST_DIFFERENCE:g}: not the same work",
    }
