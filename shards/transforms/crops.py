"""Crops: parameters by the conventions of the literature, and the resize.

Boxes are (top, left, height, width). Pixels stay uint8: antialiased interpolation of uint8 in channels-last memory is
within two levels of float (a third of a level on average), and on x86-64 with AVX2 or later uses an integer path ten
times faster than float.
Legend: T frames, H height, W width, C the three colours; frames_THWC as decoded, frames_CTHW as batches carry them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from trichord.core.errors import Cause, SampleError
from trichord.shards.transforms.view_specs import (
    CentreCrop,
    CropSpec,
    Interpolation,
    MultiScaleCrop,
    RandomResizedCrop,
    RandomShortSideCrop,
    Squash,
    ThreeCrops,
)

Box = tuple[int, int, int, int]
Frames = NDArray[np.uint8]
MAX_ASPECT = 32  # beyond this, a picture scaled to its short side could exhaust the memory


@dataclass(frozen=True)
class Geometry:
    """Parameters of a crop: take `box` of the source, resize it to `resized` (height, width), keep `window` of that."""

    box: Box
    resized: tuple[int, int]
    window: Box
    interpolation: Interpolation


def draw_geometries(spec: CropSpec, height: int, width: int, rng: np.random.Generator) -> list[Geometry]:
    """Draw a crop for a picture of this size: one geometry, three for `ThreeCrops`."""
    match spec:
        case RandomResizedCrop():
            return [_squared(spec, _random_area(spec, height, width, rng))]
        case MultiScaleCrop():
            return [_squared(spec, _multi_scale(spec, height, width, rng))]
        case Squash():
            return [_squared(spec, (0, 0, height, width))]
        case RandomShortSideCrop():
            shortest, longest = spec.short_side
            resized = _short_side(height, width, int(rng.integers(shortest, longest + 1)))
            top = int(rng.integers(0, resized[0] - spec.size + 1))
            left = int(rng.integers(0, resized[1] - spec.size + 1))
            places = [(top, left)]
        case CentreCrop():
            resized = _short_side(height, width, spec.short_side)
            places = [(_middle(resized[0], spec.size), _middle(resized[1], spec.size))]
        case ThreeCrops():
            resized = _short_side(height, width, spec.short_side)
            places = _along_long_side(resized, spec.size)
    whole = (0, 0, height, width)
    return [Geometry(whole, resized, (*place, spec.size, spec.size), spec.interpolation) for place in places]


def resize_box(frames_THWC: Frames, rows: NDArray[np.int64], geometry: Geometry) -> Tensor:
    """Cut the geometry's box from the chosen frames and resize it; return frames_TCHW in channels-last memory.

    Choosing frames and cutting in one indexing step copies only the box, and nothing for consecutive whole frames; both
    have the memory layout that the fast path needs.
    """
    top, left, height, width = geometry.box
    consecutive = len(rows) > 0 and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows)))
    chosen: slice | NDArray[np.int64] = slice(int(rows[0]), int(rows[0]) + len(rows)) if consecutive else rows
    cut_THWC = frames_THWC[chosen, top : top + height, left : left + width]
    if not cut_THWC.flags.writeable:  # torch would warn, since it has no read-only tensors
        cut_THWC = cut_THWC.copy()
    cut_TCHW = torch.from_numpy(np.ascontiguousarray(cut_THWC)).permute(0, 3, 1, 2)
    if (height, width) == geometry.resized:
        return cut_TCHW
    return functional.interpolate(cut_TCHW, geometry.resized, mode=geometry.interpolation, antialias=True)


def cut_window(frames_TCHW: Tensor, geometry: Geometry) -> Tensor:
    """Cut the geometry's window from resized frames; return contiguous frames_CTHW."""
    top, left, height, width = geometry.window
    window_TCHW = frames_TCHW[:, :, top : top + height, left : left + width]
    return window_TCHW.permute(1, 0, 2, 3).contiguous()


def _squared(spec: CropSpec, box: Box) -> Geometry:
    return Geometry(box, (spec.size, spec.size), (0, 0, spec.size, spec.size), spec.interpolation)


def _random_area(spec: RandomResizedCrop, height: int, width: int, rng: np.random.Generator) -> Box:
    """Draw up to ten random boxes; if none fits, return the largest centred one of an allowed aspect."""
    low, high = math.log(spec.aspect[0]), math.log(spec.aspect[1])
    for _ in range(10):
        area = height * width * rng.uniform(*spec.scale)
        aspect = math.exp(rng.uniform(low, high))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(rng.integers(0, height - box_height + 1))
            left = int(rng.integers(0, width - box_width + 1))
            return top, left, box_height, box_width
    aspect = min(max(width / height, spec.aspect[0]), spec.aspect[1])
    box_width, box_height = min(width, max(1, round(height * aspect))), min(height, max(1, round(width / aspect)))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def _multi_scale(spec: MultiScaleCrop, height: int, width: int, rng: np.random.Generator) -> Box:
    short = min(height, width)
    sides = [max(1, int(short * scale)) for scale in spec.scales]
    steps = range(len(sides))
    shapes = [(sides[down], sides[across]) for down in steps for across in steps if abs(down - across) <= 1]
    box_height, box_width = shapes[int(rng.integers(len(shapes)))]
    bottom, right = height - box_height, width - box_width
    places = ((0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2))
    return *places[int(rng.integers(len(places)))], box_height, box_width


def _short_side(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return the size with the short side scaled to `short_side`; the long side is rounded down, as in torchvision."""
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise SampleError(Cause.TOO_MANY_PIXELS, f"{width}x{height} has an aspect ratio above {MAX_ASPECT}")
    if height <= width:
        return short_side, int(short_side * width / height)
    return int(short_side * height / width), short_side


def _middle(length: int, size: int) -> int:
    return round((length - size) / 2)


def _along_long_side(resized: tuple[int, int], size: int) -> list[tuple[int, int]]:
    height, width = resized
    if height > width:
        return [(top, _middle(width, size)) for top in (0, _middle(height, size), height - size)]
    return [(_middle(height, size), left) for left in (0, _middle(width, size), width - size)]
