"""One SVT step beside the released code's, as ratios of CPU time and of peak memory.

Each contender runs in a process of its own, and they take turns step by step. All start from the same weights and see
the same views; stochastic depth is off, because its draws would differ. The released code is measured twice: with the
memory allocator as it is, and with the settings that `trichord pretrain` makes for itself.
Legend: B clips, C colours, T frames, H and W pixels.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from benchmarks.harness import Beat, Ratio, take_turns, timed
from benchmarks.processes import RemoteContender, memory_mib
from benchmarks.training.released_svt import Loss, MultiCrop, update_teacher
from trichord.pretrain.backbones.timesformer import TimeSformerSpec
from trichord.pretrain.backbones.timesformer.model import TimeSformer
from trichord.pretrain.engine.allocator import apply
from trichord.pretrain.engine.config import GroupRules
from trichord.pretrain.engine.schedules import Constant
from trichord.pretrain.objectives.svt import SvtSpec
from trichord.pretrain.objectives.svt.objective import Svt
from trichord.shards.reading.batch import Batch, Timeline
from trichord.shards.transforms.clip_specs import SvtWindow
from trichord.shards.transforms.normalise import Normalisation

OURS, RELEASED = "ours", "released code"
RELEASED_TUNED = f"{RELEASED}, our allocator settings"
GOAL = 1.2  # times as fast as the released code with the allocator as it is
LARGEST_DIFFERENCE = 1e-5  # of losses, relative
STEPS, LEARNING_RATE, WEIGHT_DECAY, MOMENTUM = 1000, 1e-4, 0.04, 0.996


class StepCase(BaseModel):
    """A network and the views of a step."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int
    depth: int
    heads: int
    global_frames: tuple[int, int] = (8, 8)
    local_frames: tuple[int, ...] = (8,) * 8
    global_size: int = 224
    local_size: int = 96
    batch: int = 1
    prototypes: int = 65536

    def views(self, step: int) -> list[Tensor]:
        """Draw the pixels of a step, frames_BCTHW for each view."""
        generator = torch.Generator().manual_seed(step)
        sizes = [self.global_size] * 2 + [self.local_size] * len(self.local_frames)
        return [
            torch.randint(0, 256, (self.batch, 3, frames, size, size), dtype=torch.uint8, generator=generator)
            for frames, size in zip((*self.global_frames, *self.local_frames), sizes, strict=True)
        ]

    def svt(self) -> Svt:
        """Build our networks with weights that matter everywhere: at init, the temporal branch is all zeros."""
        torch.manual_seed(0)
        spec = SvtSpec(
            window=SvtWindow(global_frames=self.global_frames, local_frames=self.local_frames),
            teacher_momentum=Constant(value=MOMENTUM),
            prototypes=self.prototypes,
        )
        backbone = TimeSformer(TimeSformerSpec(dim=self.dim, depth=self.depth, heads=self.heads, drop_path=0.0))
        svt = Svt(spec, backbone, STEPS)
        with torch.no_grad():
            for name, parameter in svt.named_parameters():
                if "weight_" not in name:
                    parameter.add_(torch.randn_like(parameter), alpha=0.02)
        return svt


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


class StepResult(NamedTuple):
    """What a step leaves behind."""

    loss: float
    peak_mib: float  # of the process so far


class Stepper(Protocol):
    """Code that takes one step at a time."""

    def prepare(self, views: list[Tensor]) -> None:
        """Take the views as its loader delivers them; not timed."""

    def step(self, number: int) -> float:
        """Take the step and return its loss."""


class OurStep:
    """The objective, with the optimiser as the engine makes it."""

    def __init__(self, case: StepCase) -> None:
        self.svt = case.svt()
        groups = [
            {"params": list(group.parameters.values()), "weight_decay": WEIGHT_DECAY * group.decay_scale}
            for group in self.svt.parameter_groups(GroupRules())
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=LEARNING_RATE, fused=True)

    def prepare(self, views: list[Tensor]) -> None:
        count = len(views[0])
        self.batch = Batch(
            video=views,
            audio=[],
            audio_present=torch.zeros(count, dtype=torch.bool),
            valid=torch.ones(count, dtype=torch.bool),
            text=[""] * count,
            labels=[()] * count,
            key=[""] * count,
            shard=[""] * count,
            source=[0] * count,
            position=[-1] * count,
            timeline=[Timeline()] * count,
            step=0,
            bad=[],
            left_out=[],
            surplus=0,
        )

    def step(self, number: int) -> float:
        loss = self.svt(self.batch, number).loss
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.svt.after_update(number)
        return float(loss.detach())


class ReleasedStep:
    """The released step; its loader delivers normalised pixels, so normalising is not timed."""

    def __init__(self, case: StepCase) -> None:
        svt = case.svt()
        shape = (case.dim, case.depth, case.heads, case.prototypes)
        self.student, self.teacher = MultiCrop(*shape), MultiCrop(*shape)
        self.student.load_state_dict(svt.student.state_dict())
        self.teacher.load_state_dict(svt.teacher.state_dict())
        for parameter in self.teacher.parameters():
            parameter.requires_grad = False
        self.loss = Loss(2 + len(case.local_frames), case.prototypes)
        trained = [(name, p) for name, p in self.student.named_parameters() if p.requires_grad]
        plain = [p for name, p in trained if name.endswith(".bias") or p.ndim == 1]
        decayed = [p for name, p in trained if not (name.endswith(".bias") or p.ndim == 1)]
        groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=LEARNING_RATE)

    def prepare(self, views: list[Tensor]) -> None:
        normalise = Normalisation()
        self.views = [normalise(view) for view in views]

    def step(self, number: int) -> float:
        with torch.no_grad():
            targets = self.teacher(self.views[:2])
        loss: Tensor = self.loss(self.student(self.views), targets)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        update_teacher(self.teacher, self.student, MOMENTUM)
        return float(loss.detach())


STEPPERS: dict[str, Callable[[StepCase], Stepper]] = {
    OURS: OurStep,
    RELEASED: ReleasedStep,
    RELEASED_TUNED: ReleasedStep,
}


def make_lap(name: str, case: StepCase) -> Callable[[int], tuple[float, StepResult]]:
    """Build a contender in this process; return the function that takes and times the step of a number."""
    if name != RELEASED:
        apply()
    torch.set_num_threads(1)
    stepper = STEPPERS[name](case)

    def lap(number: int) -> tuple[float, StepResult]:
        stepper.prepare(case.views(number))
        seconds, loss = timed(lambda: stepper.step(number))
        return seconds, StepResult(loss, memory_mib("VmHWM"))

    return lap


def run_step_bench(
    cases: Mapping[tuple[str, str], StepCase], rounds: int, beat: Beat = lambda: None
) -> list[dict[str, Any]]:
    """Measure each case; return a row for each and for each way to run the released code."""
    return [row for (size, views), case in cases.items() for row in _measure(size, views, case, rounds, beat)]


def _measure(size: str, views: str, case: StepCase, rounds: int, beat: Beat) -> list[dict[str, Any]]:
    results: dict[str, list[StepResult]] = {name: [] for name in STEPPERS}
    with ExitStack() as stack:
        contenders = {name: stack.enter_context(RemoteContender(name, make_lap, name, case)) for name in STEPPERS}

        def lap(name: str, case: StepCase) -> tuple[float, None]:
            seconds, result = contenders[name].lap(len(results[name]))
            results[name].append(result)
            return seconds, None

        seconds = take_turns(list(STEPPERS), [case], rounds, lap, beat).seconds
    return [_row(size, views, name, seconds, results) for name in (RELEASED, RELEASED_TUNED)]


def _row(
    size: str,
    views: str,
    against: str,
    seconds: Mapping[str, Sequence[float]],
    results: Mapping[str, Sequence[StepResult]],
) -> dict[str, Any]:
    """Compare the losses of all steps, that of the warm-up included."""
    ratio = Ratio.of(seconds[OURS], seconds[against])
    apart = max(
        abs(own.loss - other.loss) / abs(other.loss) for own, other in zip(results[OURS], results[against], strict=True)
    )
    is_same = apart <= LARGEST_DIFFERENCE
    ours_mib, theirs_mib = results[OURS][-1].peak_mib, results[against][-1].peak_mib
    return {
        "network": size,
        "views": views,
        "against": against,
        "ours_s": round(statistics.median(seconds[OURS]), 2),
        "theirs_s": round(statistics.median(seconds[against]), 2),
        "ratio": round(ratio.median, 2),
        "range": ratio.range,
        "goal": GOAL if against == RELEASED else None,
        "met": is_same and ratio.median >= GOAL if against == RELEASED else None,
        "ours_mib": round(ours_mib),
        "theirs_mib": round(theirs_mib),
        "memory_ratio": round(theirs_mib / ours_mib, 2),
        "losses_apart": float(f"{apart:.1e}"),
        "note": "" if is_same else f"losses differ by more than {LARGEST_DIFFERENCE:g}: not the same work",
    }
