"""The frames of a clip, chosen by presentation time, and the base of the settings of clips.

A frame is shown from its own time until that of the next frame; "the frame at t" is the one on screen at t.
Legend: times_N presentation time of each frame in seconds, ascending; indices_T the frames of a clip, repeats allowed;
instants_T the times at which a clip samples frames.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from trichord.core.errors import Cause, SampleError

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


def frames_at(times_N: Seconds, instants_T: NDArray[np.floating]) -> Indices:
    """Return the frame on screen at each instant; before the first and after the last, the nearest one."""
    shown_T = np.searchsorted(times_N, instants_T + TOLERANCE_S, side="right") - 1
    return np.clip(shown_T, 0, len(times_N) - 1).astype(np.int64)


def spread_inside(times_N: Seconds, start_s: float, end_s: float, frames: int) -> Indices:
    """Spread frames over those with times in [start, end), first and last included; if none, use the one at start."""
    first = int(np.searchsorted(times_N, start_s - TOLERANCE_S))
    last = int(np.searchsorted(times_N, end_s - TOLERANCE_S)) - 1
    if last < first:
        first = last = int(frames_at(times_N, np.array([start_s]))[0])
    return frames_at(times_N, np.linspace(times_N[first], times_N[last], frames))


class BaseClipSpec(BaseModel, ABC):
    """What samples and recipes ask of the settings of clips; `plan` chooses the frames."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    follows_backbone: ClassVar[bool] = True  # a recipe that omits `frames` gets the number that the backbone takes

    @property
    def window_words(self) -> str | None:
        """A description of the windows of a whole video; None if clips are not such windows."""
        return None

    def clip_length_s(self, frames_per_second: float) -> float | None:
        """Return the length of a clip in a video with this frame rate; None if the video's length determines it."""
        return None

    @property
    def clip_count(self) -> int | None:
        """Number of clips per video; None if it depends on the length of the video."""
        found: int = getattr(self, "clips", 1)
        return found

    @property
    def frame_counts(self) -> set[int]:
        """Possible numbers of frames of a clip; empty if they depend on the length of the video."""
        frames: int | None = getattr(self, "frames", None)
        return set() if frames is None else {frames}

    @property
    def is_random(self) -> bool:
        """Whether the choice of frames is random."""
        return getattr(self, "placement", None) == "random"

    def for_sound(self) -> Self:
        """Return a spec of the same time intervals with one frame each, if frames do not determine the interval."""
        return self

    def fixed(self, clips: int) -> Self | None:
        """Return a deterministic spec of this many clips of the same kind, evenly spread; None if there is none."""
        return None

    def plan(self, times_s: Seconds, duration_s: float, rng: np.random.Generator) -> list[Clip]:
        """Choose the frames of every clip of one video; only random placements draw from `rng`."""
        if len(times_s) == 0:
            raise SampleError(Cause.NO_VIDEO, "the video stream has no frames")
        times_N = np.asarray(times_s, dtype=np.float64)
        return self._plan(times_N, max(duration_s, float(times_N[-1])), rng)

    @abstractmethod
    def _plan(self, times_N: Seconds, duration_s: float, rng: np.random.Generator) -> list[Clip]: ...
