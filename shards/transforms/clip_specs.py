"""Settings of how clips are cut from a video: one kind for each convention in the literature, named by recipes.

Segments follow TSN (Wang et al. 2016), windows the "T frames every stride" of the Kinetics loaders, sliding windows the
video-level evaluation of Charades, and `SvtWindow` the temporal sets of SVT (Ranasinghe et al. 2022, section 3.2).
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

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


class Segments(_Spec):
    """One frame from each of `frames` equal segments of the whole video; a short video repeats frames.

    With placement "centre" and several clips, clip j takes the instant (j + 1/2) / clips of every segment.
    """

    kind: Literal["segments"] = "segments"
    frames: int = Field(ge=1)
    placement: Literal["random", "centre"] = "random"
    clips: int = Field(default=1, ge=1)

    def for_sound(self) -> Self:
        return self.model_copy(update={"frames": 1})

    def fixed(self, clips: int) -> Self:
        return self.model_copy(update={"placement": "centre", "clips": clips})


class DenseWindow(_Spec):
    """A window of `frames` frames, one every `stride_frames` source frames or every clip_seconds / frames.

    Placement "uniform" spaces clip starts evenly from the first to the last that fits (one clip: in the middle).
    `short` selects how a video shorter than the window is filled: "clamp" repeats its last frame (PySlowFast, and so
    TimeSformer, SVT and VTN), "loop" starts over (mmaction, and so X-CLIP), "stretch" spreads the frames over the whole
    video (PyTorchVideo).
    """

    kind: Literal["window"] = "window"
    frames: int = Field(ge=1)
    stride_frames: int | None = Field(default=None, ge=1)
    clip_seconds: float | None = Field(default=None, gt=0)
    placement: Literal["random", "uniform"] = "random"
    clips: int = Field(default=1, ge=1)
    short: Literal["clamp", "loop", "stretch"] = "clamp"

    @model_validator(mode="after")
    def _one_length(self) -> DenseWindow:
        if (self.stride_frames is None) == (self.clip_seconds is None):
            raise ValueError("a window needs exactly one of stride_frames and clip_seconds")
        return self

    def for_sound(self) -> Self:
        return self if self.clip_seconds is None else self.model_copy(update={"frames": 1})

    def fixed(self, clips: int) -> Self:
        return self.model_copy(update={"placement": "uniform", "clips": clips})


class FullVideo(_Spec):
    """One clip over the whole video: `frames` frames spread evenly, first and last included, or frames_per_second.

    Above max_frames the rate is reduced, so that the clip still covers the video to its end.
    """

    kind: Literal["full"] = "full"
    frames: int | None = Field(default=None, ge=1)
    frames_per_second: float | None = Field(default=None, gt=0)
    max_frames: int = Field(default=1024, ge=1)

    @model_validator(mode="after")
    def _one_rate(self) -> FullVideo:
        if (self.frames is None) == (self.frames_per_second is None):
            raise ValueError("a full video needs exactly one of frames and frames_per_second")
        return self

    def fixed(self, clips: int) -> Self | None:
        return self if clips == 1 else None


class SlidingWindows(_Spec):
    """Windows of clip_seconds starting at 0, stride, 2 stride ... while inside the video (default: no overlap).

    The last window is cut at the end of the video and its frames are spread over the rest, as in Charades evaluation.
    """

    kind: Literal["sliding"] = "sliding"
    frames: int = Field(ge=1)
    clip_seconds: float = Field(gt=0)
    stride_seconds: float | None = Field(default=None, gt=0)

    @property
    def clip_count(self) -> None:
        return None

    def for_sound(self) -> Self:
        return self.model_copy(update={"frames": 1})


class SvtWindow(_Spec):
    """SVT's clips in one random window: two globals over nearly all of it, locals over a random eighth of it each.

    Global 1 spans all but the last `offset_frames` source frames of the window, global 2 all but the first. The frame
    count of each view is fixed, because a batch stacks views: globals (8, 16), locals (2, 2, 4, 4, 8, 8, 16, 16) as in
    the paper. The released code has globals (4, 8) with its variable-rate flag and 8 frames everywhere by default.
    Globals come first.
    """

    kind: Literal["svt"] = "svt"
    window_seconds: float = Field(default=8 * 32 / 30, gt=0)
    offset_frames: int = Field(default=5, ge=0)
    global_frames: tuple[int, int] = (8, 16)
    local_frames: tuple[int, ...] = (2, 2, 4, 4, 8, 8, 16, 16)
    local_share: float = Field(default=1 / 8, gt=0, le=1)

    @property
    def clip_count(self) -> int:
        return 2 + len(self.local_frames)

    @property
    def frame_counts(self) -> set[int]:
        return {*self.global_frames, *self.local_frames}

    @property
    def is_random(self) -> bool:
        return True


ClipSpec = Annotated[Segments | DenseWindow | FullVideo | SlidingWindows | SvtWindow, Field(discriminator="kind")]
