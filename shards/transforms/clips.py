"""Choice of the frames of a clip, by presentation time, so that a variable frame rate is no special case.

A frame is shown from its own time until that of the next frame; "the frame at t" is the one on screen at t.
Legend: times_N presentation time of each frame in seconds, ascending; indices_T the frames of a clip, repeats allowed;
instants_T the times at which a clip samples frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trichord.core.errors import Cause, SampleError
from trichord.shards.transforms.clip_specs import ClipSpec, DenseWindow, FullVideo, Segments, SlidingWindows, SvtWindow

Seconds = NDArray[np.float64]
Indices = NDArray[np.int64]

# Times are rational time stamps converted to float seconds; an instant this close to a frame's time is that frame.
TOLERANCE_S = 1e-6


@dataclass(frozen=True, eq=False)
class Clip:
    """The frames of one clip and the time interval they cover, which is also the interval of its audio."""

    indices: Indices
    start_s: float
    end_s: float


def plan_clips(spec: ClipSpec, times_s: Seconds, duration_s: float, rng: np.random.Generator) -> list[Clip]:
    """Choose the frames of every clip of one video; only random placements draw from `rng`."""
    if len(times_s) == 0:
        raise SampleError(Cause.NO_VIDEO, "the video stream has no frames")
    times_N = np.asarray(times_s, dtype=np.float64)
    duration_s = max(duration_s, float(times_N[-1]))
    match spec:
        case Segments():
            return _segments(spec, times_N, duration_s, rng)
        case DenseWindow() if spec.clip_seconds is not None:
            return _windows_by_seconds(spec, spec.clip_seconds, times_N, duration_s, rng)
        case DenseWindow():
            return _windows_by_frames(spec, spec.stride_frames or 1, times_N, duration_s, rng)
        case FullVideo():
            return [_full_video(spec, times_N, duration_s)]
        case SlidingWindows():
            return _sliding_windows(spec, times_N, duration_s)
        case SvtWindow():
            return _svt(spec, times_N, duration_s, rng)


def frames_at(times_N: Seconds, instants_T: NDArray[np.floating]) -> Indices:
    """Return the frame on screen at each instant; before the first and after the last, the nearest one."""
    shown_T = np.searchsorted(times_N, instants_T + TOLERANCE_S, side="right") - 1
    return np.clip(shown_T, 0, len(times_N) - 1).astype(np.int64)


def _segments(spec: Segments, times_N: Seconds, duration_s: float, rng: np.random.Generator) -> list[Clip]:
    clips = []
    for number in range(spec.clips):
        if spec.placement == "random":
            offsets_T = rng.random(spec.frames)
        else:
            offsets_T = np.full(spec.frames, (number + 0.5) / spec.clips)
        instants_T = (np.arange(spec.frames) + offsets_T) * (duration_s / spec.frames)
        clips.append(Clip(frames_at(times_N, instants_T), 0.0, duration_s))
    return clips


def _starts(spec: DenseWindow, slack: float, rng: np.random.Generator) -> Seconds:
    """Place clip starts in [0, slack], where `slack` is the length of the video beyond the window."""
    if spec.placement == "random":
        return rng.random(spec.clips) * slack
    return np.linspace(0.0, slack, spec.clips) if spec.clips > 1 else np.array([slack / 2])


def _windows_by_seconds(
    spec: DenseWindow, clip_seconds: float, times_N: Seconds, duration_s: float, rng: np.random.Generator
) -> list[Clip]:
    length_s = min(clip_seconds, duration_s) if spec.short == "stretch" else clip_seconds
    offsets_T = np.arange(spec.frames) * (length_s / spec.frames)
    if spec.short == "loop" and 0 < duration_s < clip_seconds:
        offsets_T = offsets_T % duration_s
    clips = []
    for start_s in _starts(spec, max(duration_s - clip_seconds, 0.0), rng):
        end_s = min(float(start_s) + clip_seconds, duration_s)
        clips.append(Clip(frames_at(times_N, start_s + offsets_T), float(start_s), end_s))
    return clips


def _windows_by_frames(
    spec: DenseWindow, stride_frames: int, times_N: Seconds, duration_s: float, rng: np.random.Generator
) -> list[Clip]:
    count = len(times_N)
    span = (spec.frames - 1) * stride_frames + 1
    offsets_T = np.arange(spec.frames, dtype=np.int64) * stride_frames
    if spec.short == "loop" and span > count:
        offsets_T = offsets_T % count
    elif spec.short == "stretch" and span > count:
        offsets_T = np.arange(spec.frames, dtype=np.int64) * count // spec.frames
    clips = []
    # Random starts are drawn over slack + 1 whole frames, so that the last one is as likely as the others.
    slack = max(count - span, 0)
    for start in _starts(spec, slack + 1 if spec.placement == "random" else slack, rng):
        first = min(int(start), slack)
        after = first + spec.frames * stride_frames
        end_s = float(times_N[after]) if after < count else duration_s
        clips.append(Clip(np.minimum(first + offsets_T, count - 1), float(times_N[first]), end_s))
    return clips


def _full_video(spec: FullVideo, times_N: Seconds, duration_s: float) -> Clip:
    if spec.frames_per_second is not None:
        wanted = max(1, math.ceil(duration_s * spec.frames_per_second - TOLERANCE_S))
        count = min(wanted, spec.max_frames)
        instants_T = np.arange(count) * (1 / spec.frames_per_second if count == wanted else duration_s / count)
    else:
        instants_T = np.linspace(times_N[0], times_N[-1], spec.frames or 1)
    return Clip(frames_at(times_N, instants_T), 0.0, duration_s)


def _spread_inside(times_N: Seconds, start_s: float, end_s: float, frames: int) -> Indices:
    """Spread frames over those with times in [start, end), first and last included; if none, use the one at start."""
    first = int(np.searchsorted(times_N, start_s - TOLERANCE_S))
    last = int(np.searchsorted(times_N, end_s - TOLERANCE_S)) - 1
    if last < first:
        first = last = int(frames_at(times_N, np.array([start_s]))[0])
    return frames_at(times_N, np.linspace(times_N[first], times_N[last], frames))


def _sliding_windows(spec: SlidingWindows, times_N: Seconds, duration_s: float) -> list[Clip]:
    stride_s = spec.stride_seconds or spec.clip_seconds
    clips = []
    for number in range(max(1, math.ceil(duration_s / stride_s - TOLERANCE_S))):
        start_s = number * stride_s
        end_s = min(start_s + spec.clip_seconds, duration_s)
        clips.append(Clip(_spread_inside(times_N, start_s, end_s, spec.frames), start_s, end_s))
    return clips


def _svt(spec: SvtWindow, times_N: Seconds, duration_s: float, rng: np.random.Generator) -> list[Clip]:
    start_s = float(rng.random() * max(duration_s - spec.window_seconds, 0.0))
    end_s = min(start_s + spec.window_seconds, duration_s)
    first, last = (int(index) for index in _spread_inside(times_N, start_s, end_s, 2))
    early_s = float(times_N[max(last + 1 - spec.offset_frames, first)])
    late_s = float(times_N[min(first + spec.offset_frames, last)])
    # The reference ends global 2 one frame after the window's last and clamps it.
    instants_2T = (
        np.linspace(times_N[first], early_s, spec.global_frames[0]),
        np.linspace(late_s, end_s, spec.global_frames[1]),
    )
    spans_s = ((start_s, early_s), (late_s, end_s))
    clips = []
    for instants_T, (from_s, to_s) in zip(instants_2T, spans_s, strict=True):
        clips.append(Clip(np.clip(frames_at(times_N, instants_T), first, last), from_s, to_s))
    length_s = (end_s - start_s) * spec.local_share
    for frames in spec.local_frames:
        from_s = start_s + float(rng.random()) * (end_s - start_s - length_s)
        to_s = from_s + length_s
        clips.append(Clip(_spread_inside(times_N, from_s, to_s, frames), from_s, to_s))
    return clips
