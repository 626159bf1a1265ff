"""How clips are cut from a video, as settings: the kinds that recipes name, each with the field's conventions.

Segments follow TSN (Wang et al. 2016), windows the "T frames every stride" of the Kinetics loaders, sliding windows the
video-level evaluation of Charades, and `SvtWindow` the temporal sets of SVT (Ranasinghe et al. 2022, section 3.2).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Segments(_Spec):
    """The whole video in `frames` equal segments, one frame of each; a short video repeats frames.

    With placement "centre" and several clips, clip j takes the instant (j + 1/2) / clips of every segment.
    """

    kind: Literal["segments"] = "segments"
    frames: int = Field(ge=1)
    placement: Literal["random", "centre"] = "random"
    clips: int = Field(default=1, ge=1)


class DenseWindow(_Spec):
    """A window of `frames` frames, one every `stride_frames` source frames or every clip_seconds / frames.

    Placement "uniform" puts clip starts evenly from the first to the last that fits (one clip: in the middle). `short`
    says what a video shorter than the window gives: "clamp" repeats its last frame (PySlowFast, and so TimeSformer, SVT
    and VTN), "loop" starts over (mmaction, and so X-CLIP), "stretch" spreads the frames over what there is
    (PyTorchVideo).
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


class FullVideo(_Spec):
    """One clip over the whole video: `frames` frames spread evenly, first and last included, or frames_per_second.

    Above max_frames the rate falls, so that the clip still reaches the end.
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


class SlidingWindows(_Spec):
    """Windows of clip_seconds starting at 0, stride, 2 stride ... while inside the video (default: no overlap).

    The last window is cut at the video's end and its frames spread over what is left, as Charades is evaluated.
    """

    kind: Literal["sliding"] = "sliding"
    frames: int = Field(ge=1)
    clip_seconds: float = Field(gt=0)
    stride_seconds: float | None = Field(default=None, gt=0)


class SvtWindow(_Spec):
    """SVT: one random window; two globals over nearly all of it, locals over an eighth of it at random places.

    Global 1 spans all but the last `offset_frames` source frames of the window, global 2 all but the first. Each view
    keeps its frame count, for a batch stacks views: globals (8, 16), locals (2, 2, 4, 4, 8, 8, 16, 16) as in the paper;
    the released code's variable-rate flag has globals (4, 8), its default 8 frames everywhere. Globals come first.
    """

    kind: Literal["svt"] = "svt"
    window_seconds: float = Field(default=8 * 32 / 30, gt=0)
    offset_frames: int = Field(default=5, ge=0)
    global_frames: tuple[int, int] = (8, 16)
    local_frames: tuple[int, ...] = (2, 2, 4, 4, 8, 8, 16, 16)
    local_share: float = Field(default=1 / 8, gt=0, le=1)


ClipSpec = Annotated[Segments | DenseWindow | FullVideo | SlidingWindows | SvtWindow, Field(discriminator="kind")]


def clip_count(spec: ClipSpec) -> int | None:
    """Say how many clips a video gives; None where that depends on its length."""
    match spec:
        case SlidingWindows():
            return None
        case FullVideo():
            return 1
        case SvtWindow():
            return 2 + len(spec.local_frames)
        case _:
            return spec.clips


def frame_counts(spec: ClipSpec) -> set[int]:
    """Say how many frames clips have; nothing where that depends on the length of a video."""
    if isinstance(spec, SvtWindow):
        return {*spec.global_frames, *spec.local_frames}
    return set() if spec.frames is None else {spec.frames}
