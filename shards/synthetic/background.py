"""The unbounded textured background behind the objects, drawn once per clip and shifted from frame to frame."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from trichord.core.seeds import generator
from trichord.shards.synthetic.plan import ClipPlan
from trichord.shards.synthetic.vocabulary import PLAIN, TONES

# Shapes: T frames, H x W pixels, C = 3 colours.
Array: TypeAlias = npt.NDArray[np.float32]


class Backdrop:
    """The background of a clip, cut out for any frame with sub-pixel shifts."""

    def __init__(self, plan: ClipPlan) -> None:
        self._height, self._width = plan.group.height, plan.group.width
        seconds_T = np.arange(plan.frames) / plan.group.fps
        # The pattern moves by +drift, so the window onto it moves by -drift.
        self._left_T = (plan.origin_x - plan.drift_x * seconds_T) * self._height
        self._top_T = (plan.origin_y - plan.drift_y * seconds_T) * self._height
        self._left, self._top = math.floor(self._left_T.min()), math.floor(self._top_T.min())
        columns = np.arange(self._left, math.ceil(self._left_T.max()) + self._width + 2, dtype=np.float32)
        rows = np.arange(self._top, math.ceil(self._top_T.max()) + self._height + 2, dtype=np.float32)
        scale = np.float32(1 / self._height)
        x_HW, y_HW = (grid.astype(np.float32) for grid in np.meshgrid(columns * scale, rows * scale))
        dark, light = (np.asarray(tone, np.float32) for tone in TONES[plan.group.tones])
        share_HW1: Array = texture(plan.group.background, plan.group.texture, x_HW, y_HW)[..., None]
        self._pattern_HWC: Array = dark + (light - dark) * share_HW1

    def frame(self, index: int) -> Array:
        """Return the background of frame `index`, interpolated linearly between pixels."""
        left, top = float(self._left_T[index]) - self._left, float(self._top_T[index]) - self._top
        column, row = math.floor(left), math.floor(top)
        cut_HWC = self._pattern_HWC[row : row + self._height + 1, column : column + self._width + 1]
        one, down, right = np.float32(1), np.float32(top - row), np.float32(left - column)
        rows_HWC: Array = cut_HWC[:-1] * (one - down) + cut_HWC[1:] * down
        mixed_HWC: Array = rows_HWC[:, :-1] * (one - right) + rows_HWC[:, 1:] * right
        return mixed_HWC


def texture(kind: str, seed: int, x_HW: Array, y_HW: Array) -> Array:
    """Return the lightness of the texture at every point, from 0 to 1."""
    rng = generator(seed, "texture")
    turn, pitch = rng.uniform(0, 2 * math.pi), rng.uniform(3.0, 6.0)
    turned_x = np.float32(math.cos(turn)) * x_HW + np.float32(math.sin(turn)) * y_HW
    turned_y = np.float32(math.cos(turn)) * y_HW - np.float32(math.sin(turn)) * x_HW
    return _TEXTURES[kind](turned_x * np.float32(pitch), turned_y * np.float32(pitch), rng)


def _step(wave: Array, softness: float) -> Array:
    share: Array = np.clip(wave / np.float32(softness) * np.float32(0.5) + np.float32(0.5), 0, 1)
    return share


def _sine(phase: Array) -> Array:
    wave: Array = np.sin(np.float32(2 * math.pi) * phase)
    return wave


def _stripes(x: Array, y: Array, rng: np.random.Generator) -> Array:
    return _step(_sine(x), 0.35)


def _checks(x: Array, y: Array, rng: np.random.Generator) -> Array:
    return _step(_sine(x * np.float32(0.6)) * _sine(y * np.float32(0.6)), 0.2)


def _waves(x: Array, y: Array, rng: np.random.Generator) -> Array:
    bend, length = rng.uniform(0.25, 0.5), rng.uniform(0.3, 0.6)
    return np.float32(0.5) + np.float32(0.5) * _sine(x + np.float32(bend) * _sine(y * np.float32(length)))


def _clouds(x: Array, y: Array, rng: np.random.Generator) -> Array:
    total = np.zeros_like(x)
    for octave in (0.35, 0.35, 0.7, 0.7, 1.4, 1.4):
        angle, phase = rng.uniform(0, 2 * math.pi, 2)
        along = np.float32(math.cos(angle)) * x + np.float32(math.sin(angle)) * y
        across = np.float32(math.cos(angle)) * y - np.float32(math.sin(angle)) * x
        bent = along + np.float32(0.35) * _sine(across * np.float32(octave * 0.7) + np.float32(phase))
        total += np.float32(0.3 / octave**0.7) * _sine(bent * np.float32(octave) + np.float32(phase))
    share: Array = np.clip(np.float32(0.5) + np.float32(0.45) * total, 0, 1)
    return share


def _dots(x: Array, y: Array, rng: np.random.Generator) -> Array:
    radius = np.hypot(np.mod(x, 1) - np.float32(0.5), np.mod(y, 1) - np.float32(0.5))
    return _step(np.float32(rng.uniform(0.22, 0.32)) - radius, 0.06)


def _rings(x: Array, y: Array, rng: np.random.Generator) -> Array:
    """Return ripples around the points of a wide grid, smooth where two neighbourhoods meet."""
    width = np.float32(4.0)
    radius = np.hypot(np.mod(x, width) - width / 2, np.mod(y, width) - width / 2)
    fade = np.clip(width / 2 - radius, 0, 1)
    return np.float32(0.35) + fade * np.float32(0.5) * _sine(radius * np.float32(rng.uniform(0.9, 1.3)))


def _plain(x: Array, y: Array, rng: np.random.Generator) -> Array:
    return np.full_like(x, 0.5)


_TEXTURES: dict[str, Callable[[Array, Array, np.random.Generator], Array]] = {
    PLAIN: _plain,
    "stripes": _stripes,
    "checks": _checks,
    "waves": _waves,
    "clouds": _clouds,
    "dots": _dots,
    "rings": _rings,
}
