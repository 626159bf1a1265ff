"""The motion of an object during an action: one pose per point in time, from which video and audio are rendered."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

# Shapes: N points in time. Lengths are shares of the frame's height, angles radians, y points down as in images.
Array: TypeAlias = npt.NDArray[np.float64]

HALF_PATH = 0.27
CIRCLE_RADIUS = 0.17
ZIGZAG_HEIGHT = 0.12
BOUNCE_HEIGHT = 0.2
SHAKE_WIDTH = 0.07
ROCK_ANGLE = 0.55
SCALES = (0.55, 1.45)
PULSE_SCALE = 0.4

# Repetitions per second of the repeating actions: slow enough to be visible at 12 frames per second.
_REPEATS_PER_S = {
    "circling clockwise": 0.6,
    "circling anticlockwise": 0.6,
    "spinning clockwise": 0.8,
    "spinning anticlockwise": 0.8,
    "zigzagging": 1.5,
    "bouncing": 1.6,
    "shaking": 2.6,
    "rocking": 1.6,
    "blinking": 2.0,
    "pulsing": 1.5,
}


@dataclass(frozen=True)
class Course:
    """The free parameters of one instance of an action."""

    repeats: int = 1
    phase: float = 0.0  # start angle of a circling object on its circle
    mirrored: bool = False  # played backwards, for an action that is its own reversal


@dataclass(frozen=True)
class Poses:
    """The offset from the object's position, scale, angle and opacity, at N points in time."""

    x_N: Array
    y_N: Array
    scale_N: Array
    angle_N: Array
    opacity_N: Array


def poses(action: str, course: Course, progress_N: Array) -> Poses:
    """Return the poses at these stages of the action: up to 0 the first pose, from 1 on the last."""
    u_N = np.clip(progress_N, 0.0, 1.0)
    changed = _COURSES[action](1.0 - u_N if course.mirrored else u_N, course)
    rest = {"x": 0.0, "y": 0.0, "scale": 1.0, "angle": 0.0, "opacity": 1.0}
    return Poses(*(np.broadcast_to(changed.get(name, np.float64(value)), u_N.shape) for name, value in rest.items()))


def reach(action: str) -> tuple[float, float, float]:
    """Return the largest horizontal offset, the largest vertical offset and the largest scale of the action."""
    path = poses(action, Course(), np.linspace(0.0, 1.0, 241))
    return float(np.abs(path.x_N).max()), float(np.abs(path.y_N).max()), float(path.scale_N.max())


def repeats_in(action: str, seconds: float) -> int:
    """Return how often a repeating action repeats in this time (1 for the others)."""
    return max(1, round(seconds * _REPEATS_PER_S.get(action, 0.0)))


def _move(x: float, y: float) -> Callable[[Array, Course], dict[str, Array]]:
    return lambda u_N, course: {"x": x * HALF_PATH * (2 * u_N - 1), "y": y * HALF_PATH * (2 * u_N - 1)}


def _circle(turn: int) -> Callable[[Array, Course], dict[str, Array]]:
    def course_of(u_N: Array, course: Course) -> dict[str, Array]:
        angle_N = course.phase + turn * 2 * math.pi * course.repeats * u_N
        return {"x": CIRCLE_RADIUS * np.cos(angle_N), "y": CIRCLE_RADIUS * np.sin(angle_N)}

    return course_of


def _spin(turn: int) -> Callable[[Array, Course], dict[str, Array]]:
    return lambda u_N, course: {"angle": turn * 2 * math.pi * course.repeats * u_N}


def _scale(start: float, end: float) -> Callable[[Array, Course], dict[str, Array]]:
    return lambda u_N, course: {"scale": start * (end / start) ** u_N}


def _fade(start: float, end: float) -> Callable[[Array, Course], dict[str, Array]]:
    return lambda u_N, course: {"opacity": start + (end - start) * u_N}


def _cosine(u_N: Array, course: Course) -> Array:
    return np.cos(2 * math.pi * course.repeats * u_N)


def _sine(u_N: Array, course: Course) -> Array:
    return np.sin(2 * math.pi * course.repeats * u_N)


def _zigzag(u_N: Array, course: Course) -> dict[str, Array]:
    triangle_N = 2 / math.pi * np.arcsin(_cosine(u_N, course))
    return {"x": HALF_PATH * (2 * u_N - 1), "y": ZIGZAG_HEIGHT * triangle_N}


_COURSES: dict[str, Callable[[Array, Course], dict[str, Array]]] = {
    "moving left": _move(-1, 0),
    "moving right": _move(1, 0),
    "moving up": _move(0, -1),
    "moving down": _move(0, 1),
    "circling clockwise": _circle(1),
    "circling anticlockwise": _circle(-1),
    "spinning clockwise": _spin(1),
    "spinning anticlockwise": _spin(-1),
    "growing": _scale(*SCALES),
    "shrinking": _scale(*reversed(SCALES)),
    "appearing": _fade(0, 1),
    "vanishing": _fade(1, 0),
    "zigzagging": _zigzag,
    "bouncing": lambda u_N, course: {"y": -BOUNCE_HEIGHT * np.abs(np.sin(math.pi * course.repeats * u_N))},
    "shaking": lambda u_N, course: {"x": SHAKE_WIDTH * _sine(u_N, course)},
    "rocking": lambda u_N, course: {"angle": ROCK_ANGLE * _sine(u_N, course)},
    "blinking": lambda u_N, course: {"opacity": (_cosine(u_N, course) > -0.2).astype(np.float64)},
    "pulsing": lambda u_N, course: {"scale": 1 + PULSE_SCALE * (0.5 - 0.5 * _cosine(u_N, course))},
}
