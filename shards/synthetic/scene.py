"""Render the frames of a planned clip: background, resting objects, acting objects, and vignetting.

The eight shapes are signed distance fields: positive outside the outline, negative inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from trichord.shards.synthetic.background import Backdrop
from trichord.shards.synthetic.motion import poses
from trichord.shards.synthetic.plan import ClipPlan, Event, Thing
from trichord.shards.synthetic.vocabulary import COLOURS, SIZES

# Shapes: T frames, H x W pixels, C = 3 colours; K different states of an object, P x P pixels around it.
# A state is five numbers: x, y, radius (in frame heights), angle, opacity.
Array: TypeAlias = npt.NDArray[np.float32]
States: TypeAlias = npt.NDArray[np.float64]
Frames: TypeAlias = npt.NDArray[np.uint8]

_EDGE = 0.14  # width of the dark outline, in radii
_HALO = 0.3  # width of the soft shadow around an object, in radii
_SPOT = 0.17  # radius of the spot that makes the rotation of an object visible, in radii
_DARK = 0.32  # brightness of outline and spot, as a share of the object's colour


def draw(plan: ClipPlan) -> Frames:
    """Render all frames, as frames_THWC."""
    height, width = plan.group.height, plan.group.width
    seconds_T = np.arange(plan.frames) / plan.group.fps
    backdrop = Backdrop(plan)
    sprites = [_Sprite(thing, _resting(thing, plan, seconds_T), height) for thing in plan.distractors]
    # Lower objects are drawn in front, whatever the order of actions, so that layers are the same in a reversed clip.
    front_last = sorted(plan.events, key=lambda event: (event.thing.y, event.thing.x))
    sprites += [_Sprite(event.thing, _acting(event, seconds_T), height) for event in front_last]
    light_HW1 = _light(height, width)
    frames_THWC = np.empty((plan.frames, height, width, 3), np.uint8)
    for index in range(plan.frames):
        frame_HWC = backdrop.frame(index)
        for sprite in sprites:
            sprite.stamp(frame_HWC, index)
        frame_HWC *= light_HW1
        # Values stay in 0..255, as they are dimmed mixtures of colours; + 0.5 rounds, because the cast truncates.
        frame_HWC += np.float32(0.5)
        frames_THWC[index] = frame_HWC
    return frames_THWC


def _resting(thing: Thing, plan: ClipPlan, seconds_T: States) -> States:
    carried_T = seconds_T if thing.drifts else np.zeros_like(seconds_T)
    x_T, y_T = thing.x + plan.drift_x * carried_T, thing.y + plan.drift_y * carried_T
    radius = SIZES[thing.size].radius
    return np.stack([x_T, y_T, *(np.full_like(seconds_T, value) for value in (radius, thing.angle, 1.0))], axis=1)


def _acting(event: Event, seconds_T: States) -> States:
    thing = event.thing
    path = poses(event.action, event.course, (seconds_T - event.start_s) / (event.end_s - event.start_s))
    radius_T = SIZES[thing.size].radius * path.scale_N
    angle_T = thing.angle + path.angle_N
    return np.stack([thing.x + path.x_N, thing.y + path.y_N, radius_T, angle_T, path.opacity_N], axis=1)


def _light(height: int, width: int) -> Array:
    """Return a vignette: factors that make the corners a little darker than the middle."""
    y_H = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None]
    x_W = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    return np.float32(1) - np.float32(0.13) * (x_W**2 + y_H**2)


class _Sprite:
    """One object in all its states: the share it keeps of the picture behind it, and the colour it adds."""

    def __init__(self, thing: Thing, states_T5: States, height: int) -> None:
        changes_T = np.r_[True, np.any(np.diff(states_T5, axis=0) != 0, axis=1)]
        self._state_T = np.cumsum(changes_T) - 1
        states_K5 = states_T5[changes_T]
        # The centre of a pixel lies half a pixel right of and below its corner.
        centre_K2 = states_K5[:, :2] * height - 0.5
        self._visible_K = states_K5[:, 4] > 0
        half = int(np.ceil(states_K5[:, 2].max() * height * (1 + _HALO))) + 1
        self._corner_K2 = np.floor(centre_K2).astype(int) - half
        steps_P = np.arange(2 * half + 2)
        offset_K2P = self._corner_K2[:, :, None] + steps_P - centre_K2[:, :, None]
        self._keep_KPP1, self._paint_KPPC = _paint(thing, states_K5, offset_K2P.astype(np.float32), height)

    def stamp(self, frame_HWC: Array, index: int) -> None:
        """Draw the object in its state of frame `index` into the picture, clipped at the borders."""
        state = self._state_T[index]
        if not self._visible_K[state]:
            return
        left, top = self._corner_K2[state]
        height, width = frame_HWC.shape[:2]
        side = self._keep_KPP1.shape[1]
        rows = slice(max(0, -top), min(side, height - top))
        columns = slice(max(0, -left), min(side, width - left))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return
        behind = frame_HWC[top + rows.start : top + rows.stop, left + columns.start : left + columns.stop]
        behind *= self._keep_KPP1[state, rows, columns]
        behind += self._paint_KPPC[state, rows, columns]


def _paint(thing: Thing, states_K5: States, offset_K2P: Array, height: int) -> tuple[Array, Array]:
    """Render one object without a background, in each of its states; edges are smooth over one pixel."""
    radius_K11 = (states_K5[:, 2] * height).astype(np.float32)[:, None, None]
    cosine_K11, sine_K11 = (turn(states_K5[:, 3]).astype(np.float32)[:, None, None] for turn in (np.cos, np.sin))
    opacity_K11 = states_K5[:, 4].astype(np.float32)[:, None, None]
    across_K1P, down_KP1 = offset_K2P[:, 0, None, :] / radius_K11, offset_K2P[:, 1, :, None] / radius_K11
    x_KPP = across_K1P * cosine_K11 + down_KP1 * sine_K11
    y_KPP = down_KP1 * cosine_K11 - across_K1P * sine_K11
    outside_KPP = distance(thing.shape, x_KPP, y_KPP)
    inside_KPP = np.clip(np.float32(0.5) - outside_KPP * radius_K11, 0, 1)
    body_KPP = np.clip(np.float32(0.5) - (outside_KPP + np.float32(_EDGE)) * radius_K11, 0, 1)
    spot_x, spot_y = SPOTS[thing.shape]
    spot_KPP = np.sqrt((x_KPP - np.float32(spot_x)) ** 2 + (y_KPP - np.float32(spot_y)) ** 2) - np.float32(_SPOT)
    body_KPP *= np.clip(np.float32(0.5) + spot_KPP * radius_K11, 0, 1)
    shade_KPP = np.clip(np.float32(0.94) - np.float32(0.1) * (across_K1P + down_KP1), 0, 1)
    shade_KPP *= np.float32(_DARK) + np.float32(1 - _DARK) * body_KPP
    halo_KPP = np.clip(1 - np.maximum(outside_KPP, 0) / np.float32(_HALO), 0, 1) ** 2
    covered_KPP = inside_KPP * opacity_K11
    keep_KPP = (1 - np.float32(0.45) * halo_KPP * opacity_K11) * (1 - covered_KPP)
    colour_C = np.asarray(COLOURS[thing.colour], np.float32)
    return keep_KPP[..., None], (covered_KPP * shade_KPP)[..., None] * colour_C


def distance(shape: str, x_TPP: Array, y_TPP: Array) -> Array:
    """Return the (nearly exact) signed distance to the shape's outline."""
    return _SHAPES[shape](x_TPP, y_TPP)


def _circle(x: Array, y: Array) -> Array:
    return np.sqrt(x * x + y * y) - np.float32(0.92)


def _square(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.8)


def _triangle(x: Array, y: Array) -> Array:
    slanted = np.float32(math.sqrt(0.75)) * np.abs(x) - np.float32(0.5) * y
    return np.maximum(slanted, y) - np.float32(0.5)


def _star(x: Array, y: Array) -> Array:
    """Return the distance to a star: fold the plane into a tenth of it, then measure to the straight edge of that."""
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
    """Return the distance to a heart: two discs above a square that is turned by 45 degrees."""
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


# Position of the dark spot on each shape, which makes the rotation of even a circle visible.
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
