"""Who takes part in `bench step`: our SVT step and the released code's, each run as a process of its own.

A contender takes a step for each line on its standard input and answers with a line of JSON: CPU seconds, loss, peak of
resident memory so far. Both start from the same weights and see the same views; no stochastic depth, whose draws would
differ.
Legend: B clips, C colours, T frames, H and W pixels.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from benchmarks.training.released_svt import Loss, MultiCrop, move_teacher
from trichord.pretrain.backbones.timesformer import TimeSformerSpec
from trichord.pretrain.backbones.timesformer.model import TimeSformer
from trichord.pretrain.engine.allocator import apply
from trichord.pretrain.engine.config import GroupRules
from trichord.pretrain.engine.schedules import Constant
from trichord.pretrain.objectives.svt import SvtSpec
from trichord.pretrain.objectives.svt.objective import Svt
from trichord.shards.reading.batch import Batch
from trichord.shards.transforms.clip_specs import SvtWindow
from trichord.shards.transforms.normalise import Normalisation

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
        """Give a step's pixels, frames_BCTHW."""
        generator = torch.Generator().manual_seed(step)
        sizes = [self.global_size] * 2 + [self.local_size] * len(self.local_frames)
        return [
            torch.randint(0, 256, (self.batch, 3, frames, size, size), dtype=torch.uint8, generator=generator)
            for frames, size in zip((*self.global_frames, *self.local_frames), sizes, strict=True)
        ]

    def svt(self) -> Svt:
        """Build our networks with weights that matter everywhere; fresh ones have a time branch of zeros."""
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


class Contender(Protocol):
    """One step at a time."""

    def prepare(self, views: list[Tensor]) -> None:
        """Take the views as its loader would bring them; not counted."""

    def step(self, number: int) -> float:
        """Take the step and give its loss."""


class Ours:
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


class Released:
    """The released step; its loader brings pixels normalised, so that is not counted."""

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
            told = self.teacher(self.views[:2])
        loss: Tensor = self.loss(self.student(self.views), told)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        move_teacher(self.teacher, self.student, MOMENTUM)
        return float(loss.detach())


CONTENDERS: dict[str, Callable[[StepCase], Contender]] = {"ours": Ours, "released": Released}


def peak_mib() -> float:
    """Give the peak of this process's resident memory; getrusage would count the process that started it as well."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def main(name: str, case_json: str, allocator: str) -> None:
    """Take steps until standard input ends; the allocator is "tuned", or as it is."""
    if allocator == "tuned":
        apply()
    torch.set_num_threads(1)
    case = StepCase.model_validate_json(case_json)
    contender = CONTENDERS[name](case)
    for number, _ in enumerate(sys.stdin):
        contender.prepare(case.views(number))
        started = time.process_time()
        loss = contender.step(number)
        answer = {"cpu_s": time.process_time() - started, "loss": loss, "peak_mib": peak_mib()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
