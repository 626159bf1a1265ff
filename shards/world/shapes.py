"""The eight shapes as distance fields: how far a point lies outside (positive) or inside (negative) the outline."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

# Shapes: T frames, P x P pixels around the object. Coordinates are in units of the object's radius, y points down.
Array: TypeAlias = npt.NDArray[np.float32]


def distance(shape: str, x_TPP: Array, y_TPP: Array) -> Array:
    """Measure the (nearly exact) distance to the shape's outline."""
    return _SHAPES[shape](x_TPP, y_TPP)


def _circle(x: Array, y: Array) -> Array:
    return np.sqrt(x * x + y * y) - np.float32(0.92)


def _square(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.8)


def _triangle(x: Array, y: Array) -> Array:
    slanted = np.float32(math.sqrt(0.75)) * np.abs(x) - np.float32(0.5) * y
    return np.maximum(slanted, y) - np.float32(0.5)


def _star(x: Array, y: Array) -> Array:
    """Fold the plane into one tenth of the star, then measure to that tenth's straight edge."""
    fifth = 2 * math.pi / 5
    angle = np.arctan2(x, -y)
    folded = np.abs(np.mod(angle + np.float32(fifth / 2), np.float32(fifth)) - np.float32(fifth / 2))
    radius = np.sqrt(x * x + y * y)
    along: Array = radius * np.cos(folded)
    across: Array = radius * np.sin(folded)
    inner = 0.46
    edge_x, edge_y = inner * math.cos(fifth / 2) - 1.0, inner * math.sin(fifth / 2)
    length = math.hypot(edge_x, edge_y)
    return (along - np.float32(1)) * np.float32(edge_y / length) - across * np.float32(edge_x / length)


def _ring(x: Array, y: Array) -> Array:
    from_middle: Array = np.abs(np.sqrt(x * x + y * y) - np.float32(0.66))
    return from_middle - np.float32(0.28)


def _cross(x: Array, y: Array) -> Array:
    side_x, side_y = np.abs(x), np.abs(y)
    across, along = np.minimum(side_x, side_y), np.maximum(side_x, side_y)
    return np.maximum(across - np.float32(0.32), along - np.float32(0.92))


def _heart(x: Array, y: Array) -> Array:
    """Two discs over a square that stands on its corner."""
    side = np.abs(x)
    lobe: Array = np.sqrt((side - np.float32(0.42)) ** 2 + (y + np.float32(0.32)) ** 2) - np.float32(0.5)
    corner: Array = (side + np.abs(y - np.float32(0.04))) * np.float32(math.sqrt(0.5)) - np.float32(0.63)
    joined: Array = np.minimum(lobe, corner)
    return joined


def _crescent(x: Array, y: Array) -> Array:
    outer: Array = np.sqrt(x * x + y * y) - np.float32(0.95)
    bite: Array = np.sqrt((x - np.float32(0.5)) ** 2 + y * y) - np.float32(0.72)
    bitten: Array = np.maximum(outer, -bite)
    return bitten


# Where each shape carries the dark spot by which even a circle can be seen to turn.
SPOTS: dict[str, tuple[float, float]] = {
    "circle": (0.0, -0.52),
    "square": (0.42, -0.42),
    "triangle": (0.0, -0.3),
    "star": (0.0, -0.42),
    "ring": (0.0, -0.66),
    "cross": (0.0, -0.6),
    "heart": (-0.42, -0.34),
    "crescent": (-0.6, 0.0),
}

_SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
    "heart": _heart,
    "crescent": _crescent,
}
