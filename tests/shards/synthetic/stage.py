"""A clip with a single action, and simple measurements of its frames and sound."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from trichord.shards.synthetic import (
    ClipPlan,
    Event,
    SyntheticRules,
    Thing,
    describe_clip,
    render,
)
from trichord.shards.synthetic.motion import Course

SMALL = SyntheticRules(frame_sizes=((64, 48),), fps=(12,), sample_rates=(16000,), min_seconds=2, max_seconds=3)


def stage(action: str, shape: str = "circle", colour: str = "red", size: str = "medium", **course: object) -> ClipPlan:
    """One action from 1 s to 3 s in an otherwise still and quiet clip of 4 s at 24 frames per second."""
    plan = describe_clip(5, 0)
    group = replace(
        plan.group, width=128, height=128, fps=24, sample_rate=16000, noise_db=-80.0, echo_gain=0.0, noise_slope=0.0
    )
    thing = Thing(shape, colour, size, 0.5, 0.5, 0.0)
    event = Event(thing, action, Course(**{"repeats": 2, **course}), 1.0, 3.0, False)  # type: ignore[arg-type]
    return replace(
        plan, group=group, frames=96, events=(event,), distractors=(), drift_x=0.0, drift_y=0.0, silent=False
    )


def centroids(frames_THWC: np.ndarray) -> np.ndarray:
    """The centroid of the red pixels, (x, y), and their number."""
    red, green, blue = (frames_THWC[..., channel].astype(int) for channel in range(3))
    mask_THW = (red > 90) & (red > 2 * green) & (red > 2 * blue)
    rows, columns = np.mgrid[: frames_THWC.shape[1], : frames_THWC.shape[2]]
    count_T = mask_THW.sum((1, 2))
    safe_T = np.maximum(count_T, 1)
    return np.stack([(mask_THW * columns).sum((1, 2)) / safe_T, (mask_THW * rows).sum((1, 2)) / safe_T, count_T], 1)


def loudest_hz(samples_N: np.ndarray, rate: int, at_s: float, window_s: float = 0.12) -> float:
    """The strongest frequency around a moment."""
    start = round((at_s - window_s / 2) * rate)
    cut_N = samples_N[start : start + round(window_s * rate)]
    spectrum = np.abs(np.fft.rfft(cut_N * np.hanning(len(cut_N)), 1 << 16))
    return float(np.argmax(spectrum) * rate / (1 << 16))


def level(samples_N: np.ndarray, rate: int, at_s: float, window_s: float = 0.1) -> float:
    start = round((at_s - window_s / 2) * rate)
    return float(np.sqrt(np.mean(samples_N[start : start + round(window_s * rate)].astype(float) ** 2)))


def sound_of(plan: ClipPlan) -> np.ndarray:
    rendered = render(plan)
    assert rendered.samples_N is not None
    return rendered.samples_N


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
