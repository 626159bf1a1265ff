"""A small SVT for the tests: views of four shapes, a backbone for any shape, and two ranks that share a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trichord.pretrain.backbones.base import Backbone, Tokens
from trichord.pretrain.collectives import sum_over_ranks
from trichord.pretrain.objectives.svt import SvtSpec
from trichord.pretrain.objectives.svt.objective import Svt
from trichord.shards.reading.batch import Batch, Timeline
from trichord.shards.transforms.clip_specs import SvtWindow

FRAMES, SIZES = (4, 6, 2, 4, 6), (8, 8, 4, 4, 8)  # the last local has the shape of the second global
STEPS = 10


class SmallBackbone(Backbone):
    """Means over coarse cells of the clip, then a linear map; records the shapes it was called with."""

    def __init__(self, dim: int = 12) -> None:
        super().__init__()
        self.dim, self.layers = dim, 3
        self.mix = nn.Sequential(nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, dim))
        self.register_buffer("seen", torch.zeros(1))
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, frames_BCTHW: Tensor, pooled_only: bool = False) -> Tokens:
        self.shapes.append(tuple(frames_BCTHW.shape))
        if self.training:
            self.seen += 1
        cells = nn.functional.adaptive_avg_pool3d(frames_BCTHW.to(self.mix[0].weight.dtype), (2, 2, 2)).flatten(1)
        pooled_BD = self.mix(cells)
        return Tokens(pooled_BD, pooled_BD[:, None, None])

    def layer_of(self, name: str) -> int:
        return 1


def spec(**changes: Any) -> SvtSpec:
    settings = {
        "window": SvtWindow(global_frames=(4, 6), local_frames=FRAMES[2:]),
        "hidden_dim": 10,
        "bottleneck_dim": 6,
        "prototypes": 21,
        **changes,
    }
    return SvtSpec.model_validate(settings)


def build(dtype: torch.dtype = torch.float32, **changes: Any) -> Svt:
    torch.manual_seed(3)
    svt = Svt(spec(**changes), SmallBackbone(), STEPS).to(dtype)
    with torch.no_grad():  # the output of a head with such small weights is nearly constant
        for parameter in svt.student.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) / 3)
        for parameter in svt.teacher.parameters():
            parameter.add_(torch.randn_like(parameter) / 3)
    return svt


def batch(samples: int, rows: slice = slice(None), step: int = 0) -> Batch:
    """Return rows of the batch of a step."""
    generator = torch.Generator().manual_seed(100 + step)
    views = [
        torch.randint(0, 256, (samples, 3, frames, size, size), dtype=torch.uint8, generator=generator)
        for frames, size in zip(FRAMES, SIZES, strict=True)
    ]
    # Whole cells differ between clips, otherwise their means would hardly differ.
    tint = torch.randint(0, 256, (samples, 3, 1, 1, 1), dtype=torch.uint8, generator=generator)
    mixed = [(view // 2 + tint // 2)[rows] for view in views]
    count = len(mixed[0])
    return Batch(
        video=mixed,
        audio=[],
        audio_present=torch.zeros(count, dtype=torch.bool),
        valid=torch.ones(count, dtype=torch.bool),
        text=[""] * count,
        labels=[()] * count,
        key=[str(number) for number in range(samples)][rows],
        shard=["0"] * count,
        source=[0] * count,
        position=[-1] * count,
        timeline=[Timeline()] * count,
        step=step,
        bad=[],
        left_out=[],
        surplus=0,
    )


def run_steps(svt: Svt, samples: int, steps: int, parts: int = 1, rank: int = 0, ranks: int = 1) -> list[float]:
    """Take plain SGD steps, each batch in parts on the ranks; return the mean loss of each step."""
    optimiser = torch.optim.SGD([p for p in svt.student.parameters() if p.requires_grad], lr=0.1)
    losses = []
    size = samples // (parts * ranks)
    for step in range(steps):
        total = torch.zeros((), dtype=torch.float64)
        for part in range(parts):
            first = (rank * parts + part) * size
            output = svt(batch(samples, slice(first, first + size), step), step)
            (output.loss / parts).backward()
            total += output.loss.detach() / parts
        for parameter in svt.student.parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None
                sum_over_ranks(parameter.grad).div_(ranks)
        optimiser.step()
        optimiser.zero_grad()
        svt.after_update(step)
        losses.append(float(sum_over_ranks(total)) / ranks)
    return losses
