"""Turning, slanting and shifting a clip: all frames by the same amount, with positions as torchvision has them.

Legend: C the three colours, T frames, H height, W width.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trichord.shards.viewing.view_specs import Sampling

WARPS = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")


def warp(frames_CTHW: Tensor, name: str, amount: float, fill: tuple[int, int, int], sampling: Sampling) -> Tensor:
    """Move the picture: degrees for rotate, pixels for translate, pixels per pixel from the corner for shear.

    What comes from outside the picture is `fill`.
    """
    height, width = frames_CTHW.shape[-2:]
    source_x, source_y = _sources(name, amount, height, width)
    if sampling == "nearest":
        return _nearest(frames_CTHW, source_x, source_y, fill)
    return _bilinear(frames_CTHW, source_x, source_y, fill)


def _sources(name: str, amount: float, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Say, in pixels, at which column and row every output pixel looks."""
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    x = torch.arange(width, dtype=torch.float32)[None, :].expand(height, width)
    y = torch.arange(height, dtype=torch.float32)[:, None].expand(height, width)
    match name:
        case "rotate":
            cosine, sine = math.cos(math.radians(amount)), math.sin(math.radians(amount))
            from_x, from_y = x - centre_x, y - centre_y
            return cosine * from_x - sine * from_y + centre_x, sine * from_x + cosine * from_y + centre_y
        case "shear_x":
            return x + amount * (y + 0.5), y
        case "shear_y":
            return x, y + amount * (x + 0.5)
        case "translate_x":
            return x - amount, y
        case "translate_y":
            return x, y - amount
    raise ValueError(f"no warp is called {name!r}; there are {', '.join(WARPS)}")


def _nearest(frames_CTHW: Tensor, source_x: Tensor, source_y: Tensor, fill: tuple[int, int, int]) -> Tensor:
    """Move bytes by one table of positions for all frames and colours; nothing is computed in float per pixel."""
    height, width = frames_CTHW.shape[-2:]
    column, row = source_x.round().long(), source_y.round().long()
    outside_HW = (column < 0) | (column >= width) | (row < 0) | (row >= height)
    positions = row.clamp_(0, height - 1).mul_(width).add_(column.clamp_(0, width - 1))
    moved = np.take(frames_CTHW.flatten(2).numpy(), positions.numpy(), axis=2)
    moved_CTHW = torch.from_numpy(moved)
    for colour, level in enumerate(fill):
        moved_CTHW[colour].masked_fill_(outside_HW, level)
    return moved_CTHW


def _bilinear(frames_CTHW: Tensor, source_x: Tensor, source_y: Tensor, fill: tuple[int, int, int]) -> Tensor:
    """Taking the fill off before sampling makes it what lies outside; one frame at a time spares fresh memory."""
    height, width = frames_CTHW.shape[-2:]
    grid_HW2 = torch.stack(((2 * source_x + 1) / width - 1, (2 * source_y + 1) / height - 1), dim=-1)
    fill_C = torch.tensor(fill, dtype=torch.float32).view(3, 1, 1)
    moved_CTHW = torch.empty_like(frames_CTHW)
    for frame in range(frames_CTHW.shape[1]):
        frame_CHW = frames_CTHW[:, frame] - fill_C
        sampled = functional.grid_sample(frame_CHW[None], grid_HW2[None], mode="bilinear", align_corners=False)[0]
        moved_CTHW[:, frame] = sampled.add_(fill_C).round_().clamp_(0, 255)
    return moved_CTHW
