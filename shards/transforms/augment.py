"""RandAugment (Cubuk et al. 2020) for clips: the same operations with the same amounts on every frame of a view.

Two conventions of "magnitude" are supported: torchvision's (bins, every operation applied) and timm's increasing one
(level 0 to 10 with noise, each operation applied with a probability: "rand-m7-n4-mstd0.5-inc1" of VideoMamba and
PySlowFast). For a given amount, every operation equals torchvision's; rotation, shear and translation also use
torchvision's pixel positions.

Legend: C the three colours, T frames, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trichord.shards.transforms import colour
from trichord.shards.transforms.view_specs import RandAugment, Sampling, TorchvisionRandAugment

Operation = tuple[str, float]  # name, and amount in the operation's own unit

TORCHVISION_OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "saturation"),
    *("contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
TIMM_OPERATIONS = (
    *("autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add", "saturation"),
    *("contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
)
FACTORS = ("brightness", "saturation", "contrast", "sharpness")


def draw_operations(spec: RandAugment, height: int, width: int, rng: np.random.Generator) -> tuple[Operation, ...]:
    """Draw the operations for a view of this size, in order, with amounts in the operations' own units."""
    drawn = []
    for _ in range(spec.operations):
        if isinstance(spec, TorchvisionRandAugment):
            name = TORCHVISION_OPERATIONS[int(rng.integers(len(TORCHVISION_OPERATIONS)))]
            sign = -1.0 if rng.random() < 0.5 else 1.0
            drawn.append((name, torchvision_amount(name, spec.magnitude, spec.bins, sign, height, width)))
        else:
            name = TIMM_OPERATIONS[int(rng.integers(len(TIMM_OPERATIONS)))]
            applied = rng.random() < spec.probability
            level = min(max(float(rng.normal(spec.magnitude, spec.magnitude_deviation)), 0.0), 10.0)
            sign = -1.0 if rng.random() < 0.5 else 1.0
            if applied:
                drawn.append((name, timm_amount(name, level, sign, height, width)))
    return tuple(drawn)


def torchvision_amount(name: str, magnitude: int, bins: int, sign: float, height: int, width: int) -> float:
    """Convert a bin to an amount; `sign` is used by operations with two directions."""
    share = magnitude / (bins - 1)
    match name:
        case "shear_x" | "shear_y":
            return sign * 0.3 * share
        case "translate_x":
            return float(int(sign * 150 / 331 * width * share))
        case "translate_y":
            return float(int(sign * 150 / 331 * height * share))
        case "rotate":
            return sign * 30 * share
        case "posterize":
            return float(8 - round(4 * share))
        case "solarize":
            return 255 * (1 - share)
        case _ if name in FACTORS:
            return 1 + sign * 0.9 * share
    return 0.0


def timm_amount(name: str, level: float, sign: float, height: int, width: int) -> float:
    """Convert a level from 0 to 10 to an amount; all operations become stronger with the level."""
    share = level / 10
    match name:
        case "shear_x" | "shear_y":
            return sign * 0.3 * share
        case "translate_x":
            return sign * 0.45 * width * share
        case "translate_y":
            return sign * 0.45 * height * share
        case "rotate":
            return sign * 30 * share
        case "posterize":
            return float(4 - int(4 * share))
        case "solarize":
            return float(256 - int(256 * share))
        case "solarize_add":
            return float(int(110 * share))
        case _ if name in FACTORS:
            return 1 + sign * 0.9 * share
    return 0.0


_TONES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda frames_CTHW, _: frames_CTHW,
    "brightness": colour.brightness,
    "saturation": colour.saturation,
    "contrast": colour.contrast,
    "hue": colour.hue,
    "sharpness": colour.sharpness,
    "posterize": lambda frames_CTHW, bits: colour.posterize(frames_CTHW, int(bits)),
    "solarize": colour.solarize,
    "solarize_add": lambda frames_CTHW, addition: colour.solarize_add(frames_CTHW, int(addition)),
    "autocontrast": lambda frames_CTHW, _: colour.autocontrast(frames_CTHW),
    "equalize": lambda frames_CTHW, _: colour.equalize(frames_CTHW),
    "invert": lambda frames_CTHW, _: colour.invert(frames_CTHW),
    "grey": lambda frames_CTHW, _: colour.grey(frames_CTHW),
}


def apply_operation(
    frames_CTHW: Tensor,
    operation: Operation,
    fill: tuple[int, int, int] = (0, 0, 0),
    interpolation: Sampling = "nearest",
) -> Tensor:
    """Apply one operation to all frames of a view; return contiguous uint8 frames_CTHW."""
    name, amount = operation
    if name in WARPS:
        return warp(frames_CTHW, name, amount, fill, interpolation)
    return _TONES[name](frames_CTHW, amount)


WARPS = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")


def warp(frames_CTHW: Tensor, name: str, amount: float, fill: tuple[int, int, int], sampling: Sampling) -> Tensor:
    """Warp the picture: degrees for rotate, pixels for translate, pixels per pixel from the corner for shear.

    Pixels from outside the picture become `fill`.
    """
    height, width = frames_CTHW.shape[-2:]
    source_x, source_y = _sources(name, amount, height, width)
    if sampling == "nearest":
        return _nearest(frames_CTHW, source_x, source_y, fill)
    return _bilinear(frames_CTHW, source_x, source_y, fill)


def _sources(name: str, amount: float, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the source column and row, in pixels, of every output pixel."""
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
    raise ValueError(f"unknown warp {name!r}; expected one of {', '.join(WARPS)}")


def _nearest(frames_CTHW: Tensor, source_x: Tensor, source_y: Tensor, fill: tuple[int, int, int]) -> Tensor:
    """Sample the nearest pixels: one table of positions serves all frames and colours, without float arithmetic."""
    height, width = frames_CTHW.shape[-2:]
    column, row = source_x.round().long(), source_y.round().long()
    outside_HW = (column < 0) | (column >= width) | (row < 0) | (row >= height)
    positions = row.clamp_(0, height - 1).mul_(width).add_(column.clamp_(0, width - 1))
    moved = np.take(frames_CTHW.flatten(2).numpy(), positions.numpy(), axis=2)
    moved_CTHW = torch.from_numpy(moved)
    for channel, level in enumerate(fill):
        moved_CTHW[channel].masked_fill_(outside_HW, level)
    return moved_CTHW


def _bilinear(frames_CTHW: Tensor, source_x: Tensor, source_y: Tensor, fill: tuple[int, int, int]) -> Tensor:
    """Sample bilinearly, one frame at a time to save memory allocations.

    Subtracting the fill before sampling makes pixels outside the picture equal to it.
    """
    height, width = frames_CTHW.shape[-2:]
    grid_HW2 = torch.stack(((2 * source_x + 1) / width - 1, (2 * source_y + 1) / height - 1), dim=-1)
    fill_C = torch.tensor(fill, dtype=torch.float32).view(3, 1, 1)
    moved_CTHW = torch.empty_like(frames_CTHW)
    for frame in range(frames_CTHW.shape[1]):
        frame_CHW = frames_CTHW[:, frame] - fill_C
        sampled = functional.grid_sample(frame_CHW[None], grid_HW2[None], mode="bilinear", align_corners=False)[0]
        moved_CTHW[:, frame] = sampled.add_(fill_C).round_().clamp_(0, 255)
    return moved_CTHW
