"""A training step made of shapes alone: no data, no memory, no device; for counting what a real one will take.

torch's fake tensors have shapes and dtypes but no values, so a step of any size passes in seconds. What they count is
the step as the CPU takes it; a GPU takes the same products, and its fused attention keeps as much.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from trichord.pretrain.config import RunConfig
from trichord.pretrain.objectives.base import Objective, StepOutput
from trichord.shards.audio.spectrogram import frame_count
from trichord.shards.reading.batch import Batch
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.transforms.clips import Clip
from trichord.shards.transforms.views import plan_views

_VIDEO_SECONDS, _VIDEO_FPS = 10, 30  # of the video that is supposed, where the length of a clip depends on it


@dataclass(frozen=True)
class Rehearsal:
    """An objective and a micro-batch of fake tensors, on a step when nothing of the objective is frozen any more."""

    objective: Objective
    batch: Batch
    step: int

    def forward(self) -> Tensor:
        """Give the loss."""
        output: StepOutput = self.objective(self.batch, self.step)
        return output.loss


class _Shapes(FakeTensorMode):
    """A copied model belongs to the same mode; torch would copy that as well."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shapes:
        return self


class _AllZero(TorchDispatchMode):
    """Answers whoever asks a fake tensor for its value, as the drawing of first weights does: it is zero.

    Who asks which values are not zero, as of a mask of what samples have, is told all of them: the most there can be.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 0.0 if args[0].is_floating_point() else 0
        if func is torch.ops.aten.nonzero.default:
            return torch.cartesian_prod(*(torch.arange(size) for size in args[0].shape)).view(-1, args[0].dim())
        return func(*args, **(kwargs or {}))


@contextmanager
def _buffers_are_copied() -> Generator[None]:
    """Let `copy.deepcopy` copy fake buffers, such as batch norm's; torch looks for their storage, and there is none."""

    def clone(tensor: FakeTensor, memo: dict[int, Any]) -> Tensor:
        copied: Tensor = tensor.detach().clone()
        if isinstance(tensor, nn.Parameter):
            copied = nn.Parameter(copied, tensor.requires_grad)
        memo[id(tensor)] = copied
        return copied

    before = FakeTensor.__deepcopy__
    FakeTensor.__deepcopy__ = clone  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        FakeTensor.__deepcopy__ = before  # type: ignore[method-assign]


@contextmanager
def rehearse(config: RunConfig, micro_batch: int, checkpoints_activations: bool | None = None) -> Generator[Rehearsal]:
    """Build a run's objective and one micro-batch of what it asks for; leave with all of it gone."""
    if checkpoints_activations is not None:
        config = config.with_checkpointing(checkpoints_activations)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), _Shapes(), _AllZero(), _buffers_are_copied():  # type: ignore[no-untyped-call]
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # by torch, when it copies one
        objective = config.build_objective()
        objective.cast_to = torch.bfloat16 if config.engine.precision == "bf16" else None
        objective.keeps_casts = config.engine.zero_stage < 3
        batch = objective.as_read(fake_batch(config.objective.sample_spec(), micro_batch))
        yield Rehearsal(objective, batch, config.steps - 1)


def fake_batch(spec: SampleSpec, samples: int) -> Batch:
    """Make a batch of the shapes that the stream would give; within a fake tensor mode it takes no memory."""
    times_s = np.arange(_VIDEO_SECONDS * _VIDEO_FPS) / _VIDEO_FPS
    clips = plan_views(spec.views, times_s, _VIDEO_SECONDS, np.random.default_rng(0)).clips
    per_clip = spec.views.views if len(spec.views.views) > 1 else spec.views.views * len(clips)
    return Batch(
        video=[
            torch.zeros(samples, 3, len(clip.indices), view.crop.size, view.crop.size, dtype=torch.uint8)
            for clip, view in zip(clips, per_clip, strict=True)
            for _ in range(view.crop.count)
        ],
        audio=_fake_sounds(spec, clips, samples),
        audio_present=torch.ones(samples, dtype=torch.bool),
        valid=torch.ones(samples, dtype=torch.bool),
        text=[""] * samples,
        labels=[(0,)] * samples,
        key=[""] * samples,
        shard=[""] * samples,
        source=[0] * samples,
        position=[-1] * samples,
        step=0,
        bad=[],
        left_out=[],
        surplus=0,
    )


def _fake_sounds(spec: SampleSpec, clips: Sequence[Clip], samples: int) -> list[Tensor]:
    if spec.sound is None:
        return []
    seconds = spec.sound_seconds or clips[0].end_s - clips[0].start_s
    frames = spec.sound.frames or frame_count(spec.sound, round(seconds * spec.sound.rate_hz))
    count = 1 if spec.sound_of == "first_clip" else len(clips)
    return [torch.zeros(samples, frames, spec.sound.mels) for _ in range(count)]
