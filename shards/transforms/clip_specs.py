"""How clips are cut from a video: one kind for each convention in the literature, named by recipes.

Segments follow TSN (Wang et al. 2016), windows the "T frames every stride" of the Kinetics loaders, sliding windows the
video-level evaluation of Charades, and `SvtWindow` the temporal sets of SVT (Ranasinghe et al. 2022, section 3.2).
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from trichord.shards.transforms.clips import TOLERANCE_S, BaseClipSpec, Clip, Seconds, frames_at, spread_inside


class Segments(BaseClipSpec):
    """One frame from each of `frames` equal segments of the whole video; a short video repeats frames.

    With placement "centre" and several clips, clip j takes the instant (j + 1/2) / clips of every segment.
    """

    kind: Literal["segments"] = "segments"
    frames: int = Field(ge=1)
    """Number of segments into which the video is divided, and so of frames of a clip."""
    placement: Literal["random", "centre"] = "random"
    """Instant taken in each segment: `random` for training, `centre` for evaluation."""
    clips: int = Field(default=1, ge=1)
    """Number of clips taken from a video."""

    def for_sound(self) -> Self:
        return self.model_copy(update={"frames": 1})

    def fixed(self, clips: int) -> Self:
        return self.model_copy(update={"placement": "centre", "clips": clips})

    def _plan(self, times_N: Seconds, duration_s: float, rng: np.random.Generator) -> list[Clip]:
        clips = []
        for number in range(self.clips):
            if self.placement == "random":
                offsets_T = rng.random(self.frames)
            else:
                offsets_T = np.full(self.frames, (number + 0.5) / self.clips)
            instants_T = (np.arange(self.frames) + offsets_T) * (duration_s / self.frames)
            clips.append(Clip(frames_at(times_N, instants_T), 0.0, duration_s))
        return clips


class DenseWindow(BaseClipSpec):
    """A window of `frames` frames, one every `stride_frames` source frames or every clip_seconds / frames.

    Placement "uniform" spaces clip starts evenly from the first to the last that fits (one clip: in the middle).
    `short` selects how a video shorter than the window is filled: "clamp" repeats its last frame (PySlowFast, and so
    TimeSformer, SVT and VTN), "loop" starts over (mmaction, and so X-CLIP), "stretch" spreads the frames over the whole
    video (PyTorchVideo).
    """

    kind: Literal["window"] = "window"
    frames: int = Field(ge=1)
    """Number of frames of a clip."""
    stride_frames: int | None = Field(default=None, ge=1)
    """Number of source frames from one frame of a clip to the next; null if `clip_seconds` is set instead."""
    clip_seconds: float | None = Field(default=None, gt=0)
    """Length of a clip in seconds, over which its frames are spread; null if `stride_frames` is set instead."""
    placement: Literal["random", "uniform"] = "random"
    """Start of a clip: `random` for training; `uniform` spaces the clips evenly over the video, and places one in the
    middle."""
    clips: int = Field(default=1, ge=1)
    """Number of clips taken from a video."""
    short: Literal["clamp", "loop", "stretch"] = "clamp"
    """How a clip of a shorter video is filled: `clamp` repeats the last frame, `loop` starts over, `stretch` spreads
    the frames over the whole video."""

    @model_validator(mode="after")
    def _one_length(self) -> DenseWindow:
        if (self.stride_frames is None) == (self.clip_seconds is None):
            raise ValueError("a window needs exactly one of stride_frames and clip_seconds")
        return self

    def for_sound(self) -> Self:
        return self if self.clip_seconds is None else self.model_copy(update={"frames": 1})

    def fixed(self, clips: int) -> Self:
        return self.model_copy(update={"placement": "uniform", "clips": clips})

    def _plan(self, times_N: Seconds, duration_s: float, rng: np.random.Generator) -> list[Clip]:
        if self.clip_seconds is not None:
            return self._by_seconds(self.clip_seconds, times_N, duration_s, rng)
        return self._by_frames(self.stride_frames or 1, times_N, duration_s, rng)

    def _by_seconds(
        self, clip_seconds: float, times_N: Seconds, duration_s: float, rng: np.random.Generator
    ) -> list[Clip]:
        length_s = min(clip_seconds, duration_s) if self.short == "stretch" else clip_seconds
        offsets_T = np.arange(self.frames) * (length_s / self.frames)
        if self.short == "loop" and 0 < duration_s < clip_seconds:
            offsets_T = offsets_T % duration_s
        clips = []
        for start_s in self._starts(max(duration_s - clip_seconds, 0.0), rng):
            end_s = min(float(start_s) + clip_seconds, duration_s)
            clips.append(Clip(frames_at(times_N, start_s + offsets_T), float(start_s), end_s))
        return clips

    def _by_frames(
        self, stride_frames: int, times_N: Seconds, duration_s: float, rng: np.random.Generator
    ) -> list[Clip]:
        count = len(times_N)
        span = (self.frames - 1) * stride_frames + 1
        offsets_T = np.arange(self.frames, dtype=np.int64) * stride_frames
        if self.short == "loop" and span > count:
            offsets_T = offsets_T % count
        elif self.short == "stretch" and span > count:
            offsets_T = np.arange(self.frames, dtype=np.int64) * count // self.frames
        clips = []
        # Random starts are drawn over slack + 1 whole frames, so that the last one is as likely as the others.
        slack = max(count - span, 0)
        for start in self._starts(slack + 1 if self.placement == "random" else slack, rng):
            first = min(int(start), slack)
            after = first + self.frames * stride_frames
            end_s = float(times_N[after]) if after < count else duration_s
            clips.append(Clip(np.minimum(first + offsets_T, count - 1), float(times_N[first]), end_s))
        return clips

    def clip_length_s(self, frames_per_second: float) -> float | None:
        if self.stride_frames is not None:
            return self.frames * self.stride_frames / frames_per_second
        return self.clip_seconds

    def _starts(self, slack: float, rng: np.random.Generator) -> Seconds:
        """Place clip starts in [0, slack], where `slack` is the length of the video beyond the window."""
        if self.placement == "random":
            return rng.random(self.clips) * slack
        return np.linspace(0.0, slack, self.clips) if self.clips > 1 else np.array([slack / 2])


class FullVideo(BaseClipSpec):
    """One clip over the whole video: `frames` frames spread evenly, first and last included, or frames_per_second.

    Above max_frames the rate is reduced, so that the clip still covers the video to its end.
    """

    kind: Literal["full"] = "full"
    frames: int | None = Field(default=None, ge=1)
    """Number of frames spread over the whole video; null if `frames_per_second` is set instead."""
    frames_per_second: float | None = Field(default=None, gt=0)
    """Number of frames taken from each second of the video; null if `frames` is set instead."""
    max_frames: int = Field(default=1024, ge=1)
    """Largest number of frames of a clip, above which `frames_per_second` is reduced."""

    follows_backbone: ClassVar[bool] = False

    @model_validator(mode="after")
    def _one_rate(self) -> FullVideo:
        if (self.frames is None) == (self.frames_per_second is None):
            raise ValueError("a full video needs exactly one of frames and frames_per_second")
        return self

    def fixed(self, clips: int) -> Self | None:
        return self if clips == 1 else None

    def _plan(self, times_N: Seconds, duration_s: float, rng: np.random.Generator) -> list[Clip]:
        if self.frames_per_second is not None:
            wanted = max(1, math.ceil(duration_s * self.frames_per_second - TOLERANCE_S))
            count = min(wanted, self.max_frames)
            instants_T = np.arange(count) * (1 / self.frames_per_second if count == wanted else duration_s / count)
        else:
            instants_T = np.linspace(times_N[0], times_N[-1], self.frames or 1)
        return [Clip(frames_at(times_N, instants_T), 0.0, duration_s)]


class SlidingWindows(BaseClipSpec):
    """Windows of clip_seconds starting at 0, stride, 2 stride ... while inside the video (default: no overlap).

    The last window is cut at the end of the video and its frames are spread over the rest, as in Charades evaluation.
    """

    kind: Literal["sliding"] = "sliding"
    frames: int = Field(ge=1)
    """Number of frames of a window."""
    clip_seconds: float = Field(gt=0)
    """Length of a window in seconds."""
    stride_seconds: float | None = Field(default=None, gt=0)
    """Seconds from the start of one window to the next; null is the length of a window, so that windows do not
    overlap."""

    @property
    def clip_count(self) -> None:
        return None

    @property
    def window_words(self) -> str:
        return f"windows of {self.clip_seconds:g} s every {self.stride_seconds or self.clip_seconds:g} s"

    def clip_length_s(self, frames_per_second: float) -> float:
        return self.clip_seconds

    def for_sound(self) -> Self:
        return self.model_copy(update={"frames": 1})

    def _plan(self, times_N: Seconds, duration_s: float, rng: np.random.Generator) -> list[Clip]:
        stride_s = self.stride_seconds or self.clip_seconds
        clips = []
        for number in range(max(1, math.ceil(duration_s / stride_s - TOLERANCE_S))):
            start_s = number * stride_s
            end_s = min(start_s + self.clip_seconds, duration_s)
            clips.append(Clip(spread_inside(times_N, start_s, end_s, self.frames), start_s, end_s))
        return clips


class SvtWindow(BaseClipSpec):
    """SVT's clips in one random window: two globals over nearly all of it, locals over a random eighth of it each.

    Global 1 spans all but the last `offset_frames` source frames of the window, global 2 all but the first. The frame
    count of each view is fixed, because a batch stacks views: globals (8, 16), locals (2, 2, 4, 4, 8, 8, 16, 16) as in
    the paper. The released code has globals (4, 8) with its variable-rate flag and 8 frames everywhere by default.
    Globals come first.
    """

    kind: Literal["svt"] = "svt"
    window_seconds: float = Field(default=8 * 32 / 30, gt=0)
    """Length in seconds of the random window of the video that all clips of a sample come from."""
    offset_frames: int = Field(default=5, ge=0)
    """Number of source frames that the first global clip lacks at the window's end, and the second at its start."""
    global_frames: tuple[int, int] = (8, 16)
    """Number of frames of each of the two global clips."""
    local_frames: tuple[int, ...] = (2, 2, 4, 4, 8, 8, 16, 16)
    """Number of frames of each local clip."""
    local_share: float = Field(default=1 / 8, gt=0, le=1)
    """Length of a local clip as a share of the window."""

    follows_backbone: ClassVar[bool] = False

    @property
    def clip_count(self) -> int:
        return 2 + len(self.local_frames)

    @property
    def frame_counts(self) -> set[int]:
        return {*self.global_frames, *self.local_frames}

    @property
    def is_random(self) -> bool:
        return True

    def _plan(self, times_N: Seconds, duration_s: float, rng: np.random.Generator) -> list[Clip]:
        start_s = float(rng.random() * max(duration_s - self.window_seconds, 0.0))
        end_s = min(start_s + self.window_seconds, duration_s)
        first, last = (int(index) for index in spread_inside(times_N, start_s, end_s, 2))
        early_s = float(times_N[max(last + 1 - self.offset_frames, first)])
        late_s = float(times_N[min(first + self.offset_frames, last)])
        # The reference ends global 2 one frame after the window's last and clamps it.
        instants_2T = (
            np.linspace(times_N[first], early_s, self.global_frames[0]),
            np.linspace(late_s, end_s, self.global_frames[1]),
        )
        spans_s = ((start_s, early_s), (late_s, end_s))
        clips = []
        for instants_T, (from_s, to_s) in zip(instants_2T, spans_s, strict=True):
            clips.append(Clip(np.clip(frames_at(times_N, instants_T), first, last), from_s, to_s))
        length_s = (end_s - start_s) * self.local_share
        for frames in self.local_frames:
            from_s = start_s + float(rng.random()) * (end_s - start_s - length_s)
            to_s = from_s + length_s
            clips.append(Clip(spread_inside(times_N, from_s, to_s, frames), from_s, to_s))
        return clips


ClipSpec = Annotated[Segments | DenseWindow | FullVideo | SlidingWindows | SvtWindow, Field(discriminator="kind")]
