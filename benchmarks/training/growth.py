"""How the cost of a clip grows with its frames: CPU time of a small network, forward and backward, and its exponent.

The exponent is the slope of a straight line through the logarithms of time and of frames: 1 where twice the frames
cost twice the time, and towards 2 where attention among all tokens outgrows everything else. The spatial part of
divided attention is measured as a network with spatial attention alone. All run on one thread. Every round yields an
exponent of its own; their median and range are reported.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.harness import Beat, take_turns, timed
from trichord.pretrain.backbones.spec import BackboneSpec
from trichord.pretrain.backbones.timesformer import TimeSformerSpec
from trichord.pretrain.backbones.videomamba import VideoMambaSpec
from trichord.pretrain.backbones.vtn import VtnSpec
from trichord.pretrain.engine.allocator import apply

FRAMES = (8, 16, 32, 64)
LARGEST_EXPONENT = 1.1  # up to here, growth counts as linear


@dataclass(frozen=True)
class Growth:
    """A network, and whether its cost should be linear in frames."""

    spec: BackboneSpec
    should_be_linear: bool = True


_SIZE: dict[str, Any] = {"size": 96, "drop_path": 0.0}
_TIMESFORMER: dict[str, Any] = {**_SIZE, "dim": 192, "depth": 4, "heads": 3}
GROWTHS = {
    "VideoMamba": Growth(VideoMambaSpec(**_SIZE, dim=192, depth=4)),
    "VTN": Growth(VtnSpec(**_SIZE, frame_backbone="vit_tiny_patch16_224", heads=3, dropout=0.0)),
    "TimeSformer, space alone": Growth(TimeSformerSpec(**_TIMESFORMER, attention="space", positions="space")),
    "TimeSformer, divided": Growth(TimeSformerSpec(**_TIMESFORMER), should_be_linear=False),
    "TimeSformer, joint": Growth(TimeSformerSpec(**_TIMESFORMER, attention="joint"), should_be_linear=False),
}


def run_growth_bench(
    growths: Mapping[str, Growth],
    rounds: int,
    frames: Sequence[int] = FRAMES,
    beat: Beat = lambda: None,
) -> list[dict[str, Any]]:
    """Measure each network at each number of frames; return a row for each network."""
    threads = torch.get_num_threads()
    apply()
    torch.set_num_threads(1)
    try:
        return _measure(growths, rounds, frames, beat)
    finally:
        torch.set_num_threads(threads)


def _measure(growths: Mapping[str, Growth], rounds: int, frames: Sequence[int], beat: Beat) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    backbones = {name: growth.spec.build() for name, growth in growths.items()}

    def lap(name: str, count: int) -> tuple[float, None]:
        backbone, size = backbones[name], growths[name].spec.size
        clip_BCTHW = torch.randn(1, 3, count, size, size)
        backbone.zero_grad()

        def step() -> None:
            pooled_BD, grid_BtnD = backbone(clip_BCTHW)
            (pooled_BD.sum() + grid_BtnD.square().mean()).backward()

        return timed(step)

    seconds = take_turns(list(growths), frames, rounds, lap, beat).seconds
    by_round = {
        name: [times[first : first + len(frames)] for first in range(0, len(times), len(frames))]
        for name, times in seconds.items()
    }
    return [_row(name, growth.should_be_linear, frames, by_round[name]) for name, growth in growths.items()]


def _row(name: str, should_be_linear: bool, frames: Sequence[int], rounds: Sequence[Sequence[float]]) -> dict[str, Any]:
    exponents = sorted(exponent(frames, times) for times in rounds)
    fitted = statistics.median(exponents)
    least = [min(times) for times in zip(*rounds, strict=True)]
    return {
        "network": name,
        **{f"{count} frames, ms": round(1e3 * each) for count, each in zip(frames, least, strict=True)},
        "exponent": round(fitted, 2),
        "range": (round(exponents[0], 2), round(exponents[-1], 2)),
        "goal": f"at most {LARGEST_EXPONENT:g}" if should_be_linear else None,
        "met": fitted <= LARGEST_EXPONENT if should_be_linear else None,
    }


def exponent(frames: Sequence[int], seconds: Sequence[float]) -> float:
    """Fit the power of the frames that the time is proportional to, by least squares of the logarithms."""
    slope, _ = statistics.linear_regression([math.log(count) for count in frames], [math.log(each) for each in seconds])
    return slope
