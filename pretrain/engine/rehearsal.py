"""A training step on fake tensors, without data, memory or device, to measure the resources of a real step.

torch's fake tensors have shapes and dtypes but no values, so a step of any size takes seconds. They follow the CPU's
code path; a GPU computes the same products, and its fused attention stores as much.
Of operations, the basis of MFU and of the dry run's hours, matrix products, convolutions and attention are counted,
forward and backward; a multiplication and an addition count as two. What is recomputed to save memory (activation
checkpointing, the scores of fused attention) is not counted, so that recomputation does not increase MFU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from trichord.pretrain.config import RunConfig
from trichord.pretrain.objectives.base import Objective, StepOutput
from trichord.shards.reading.batch import Batch, Timeline
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.transforms.clips import Clip
from trichord.shards.transforms.views import plan_views

_VIDEO_SECONDS, _VIDEO_FPS = 10, 30  # of the assumed video, if the length of a clip depends on it


@dataclass(frozen=True)
class Rehearsal:
    """An objective and a micro-batch of fake tensors, at a step at which no part of the objective is frozen."""

    objective: Objective
    batch: Batch
    step: int

    def forward(self) -> Tensor:
        """Return the loss."""
        output: StepOutput = self.objective(self.batch, self.step)
        return output.loss


class _Shapes(FakeTensorMode):
    """Fake tensor mode that a deep copy of a model shares; torch would copy the mode as well."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shapes:
        return self


class _AllZero(TorchDispatchMode):
    """Dispatch mode in which reading the value of a fake tensor, as weight initialisation does, returns zero.

    `nonzero`, used on masks of present samples, returns all indices: the most there can be.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 0.0 if args[0].is_floating_point() else 0
        if func is torch.ops.aten.nonzero.default:
            return torch.cartesian_prod(*(torch.arange(size) for size in args[0].shape)).view(-1, args[0].dim())
        return func(*args, **(kwargs or {}))


@contextmanager
def _buffers_are_copied() -> Generator[None]:
    """Make `copy.deepcopy` work on fake buffers, such as batch norm's; torch's version needs their missing storage."""

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
    """Yield a run's objective and one micro-batch of the samples it needs; both are freed on exit."""
    if checkpoints_activations is not None:
        config = config.with_checkpointing(checkpoints_activations)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), _Shapes(), _AllZero(), _buffers_are_copied():  # type: ignore[no-untyped-call]
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # torch does when it copies one
        objective = config.build_objective()
        objective.cast_to = torch.bfloat16 if config.engine.precision == "bf16" else None
        objective.keeps_casts = config.engine.zero_stage < 3
        batch = objective.as_read(fake_batch(config.objective.sample_spec(), micro_batch))
        yield Rehearsal(objective, batch, config.steps - 1)


def fake_batch(spec: SampleSpec, samples: int) -> Batch:
    """Return a batch with the shapes of the stream's batches; in a fake tensor mode it takes no memory."""
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
        timeline=[Timeline()] * samples,
        step=0,
        bad=[],
        left_out=[],
        surplus=0,
    )


def _fake_sounds(spec: SampleSpec, clips: Sequence[Clip], samples: int) -> list[Tensor]:
    if spec.sound is None:
        return []
    seconds = spec.sound_seconds or clips[0].end_s - clips[0].start_s
    frames = spec.sound.frames or spec.sound.frame_count(round(seconds * spec.sound.rate_hz))
    count = 1 if spec.sound_of == "first_clip" else len(clips)
    return [torch.zeros(samples, frames, spec.sound.mels) for _ in range(count)]


Shape = Sequence[int]


def _attention_forward(queries: Shape, keys: Shape, values: Shape, *rest: Any, **named: Any) -> int:
    return int(sdpa_flop_count(queries, keys, values))


def _attention_backward(gradient: Shape, queries: Shape, keys: Shape, values: Shape, *rest: Any, **named: Any) -> int:
    """Count two gradients for each of two products; the kernel's recomputation of the scores is not counted."""
    return 2 * _attention_forward(queries, keys, values)


# torch counts attention on GPUs, but not the CPU kernel.
_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_forward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def count_flops(work: Callable[[], object]) -> int:
    """Run `work` once and return its operations; compiled modules run in eager mode."""
    counter = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
    with torch.compiler.set_stance("force_eager"), counter:
        work()
    return int(counter.get_total_flops())


def training_flops(config: RunConfig, micro_batch: int) -> int:
    """Return the operations of a micro-batch's forward and backward on one rank; takes a second or two."""
    with rehearse(config, micro_batch, checkpoints_activations=False) as rehearsal:
        return count_flops(lambda: rehearsal.forward().backward())
