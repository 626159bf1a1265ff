"""Videos and sounds as callers have them, files or arrays, one or several, as the batches that models take.

Legend: T frames, H rows and W columns of pixels, C the three colours, N samples of sound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trichord.api import checks
from trichord.core.errors import SampleError, UserError
from trichord.core.seeds import generator
from trichord.shards.decoding.sound import resample
from trichord.shards.reading.batch import Batch, Example, Named, Timeline, collate, stack_anew, with_as_many_views
from trichord.shards.sample import ClipTransform, read_video
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.transforms.views import make_views, plan_views

Video: TypeAlias = str | Path | NDArray[np.uint8] | Tensor
Sound: TypeAlias = str | Path | NDArray[np.float32] | Tensor

_COLOURS = 3


def video_batches(videos: Sequence[Video], spec: SampleSpec, fps: float, batch_size: int) -> Iterator[Batch]:
    """Yield batches of videos in order; where their numbers of clips differ, empty clips fill up the shorter ones."""
    checks.at_least(1, batch_size=batch_size)
    checks.above_zero(fps=fps)
    for first in range(0, len(videos), batch_size):
        named = []
        for number, video in enumerate(videos[first : first + batch_size], first):
            name = Path(video).name if isinstance(video, str | Path) else f"array {number}"
            named.append(Named(_example(video, spec, fps), name, "", 0))
        yield collate(with_as_many_views(named), 0, [], [], 0, stack_anew)


def several(given: object, arrays_of_one: int) -> tuple[list[Any], bool]:
    """Return inputs as a list, and whether there was only one; an array with an additional dimension is several."""
    if isinstance(given, list | tuple):
        return list(given), False
    if isinstance(given, np.ndarray | Tensor) and given.ndim > arrays_of_one:
        return list(given), False
    return [given], True


def _example(video: Video, spec: SampleSpec, fps: float) -> Example:
    if not isinstance(video, str | Path):
        return _example_of_frames(frames_of(video), spec, fps)
    raw = read_video(Path(video))
    try:
        return ClipTransform(spec)(raw, generator(0, "one sample", raw.key))
    except SampleError as error:
        raise UserError(f"{video} cannot be used: {error}") from error


def _example_of_frames(frames_THWC: NDArray[np.uint8], spec: SampleSpec, fps: float) -> Example:
    if spec.sound is not None:
        raise UserError("this model takes sound, which frames do not have: pass the name of a video file")
    rng = generator(0, "one sample", "frames")
    duration_s = len(frames_THWC) / fps
    plan = plan_views(spec.views, np.arange(len(frames_THWC)) / fps, duration_s, rng)
    views = make_views(spec.views, plan, frames_THWC[plan.needed], rng)
    clips_s = tuple((clip.start_s, clip.end_s) for clip in plan.clips)
    return Example(
        video=views.tensors(),
        audio=[],
        audio_present=False,
        text="",
        labels=(),
        timeline=Timeline(clips_s, duration_s),
    )


def frames_of(video: object) -> NDArray[np.uint8]:
    """Return frames_THWC of an array or tensor of uint8 with the colours last or before the rows."""
    frames = video.detach().cpu().numpy() if isinstance(video, Tensor) else video
    if not isinstance(frames, np.ndarray):
        raise UserError(f"expected the name of a video file, an array or a tensor, found {type(video).__name__}")
    found = f"{frames.dtype} of the shape {frames.shape}"
    if frames.dtype != np.uint8 or frames.ndim != 4 or _COLOURS not in (frames.shape[3], frames.shape[1]):
        raise UserError(f"expected uint8 frames of the shape (T, H, W, 3) or (T, 3, H, W), found {found}")
    if not frames.size:
        raise UserError(f"expected at least one frame, found {found}")
    if frames.shape[3] != _COLOURS:
        frames = frames.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(frames)


def samples_of(sound: object, rate_hz: int, wanted_hz: int, seconds: float | None = None) -> NDArray[np.float32]:
    """Return mono samples_N of an array or tensor at the rate that a model takes; channels come first.

    With `seconds`, only its middle, with silence around a shorter sound, as for files.
    """
    sound = torch.from_numpy(np.ascontiguousarray(sound)) if isinstance(sound, np.ndarray) else sound
    samples = sound if isinstance(sound, Tensor) else None
    if samples is None or samples.ndim not in (1, 2) or not samples.is_floating_point() or not samples.numel():
        found = type(sound).__name__ if samples is None else f"{samples.dtype} of the shape {tuple(samples.shape)}"
        raise UserError(
            "expected the name of a file, or floating-point samples between -1 and 1 of the shape (N,) or "
            f"(channels, N), found {found}"
        )
    checks.at_least(1, rate_hz=rate_hz)
    mono_N = samples.detach().cpu().float().reshape(-1, samples.shape[-1]).mean(dim=0).numpy()
    if not np.isfinite(mono_N).all():
        raise UserError("expected samples between -1 and 1, found some that are not finite")
    mono_N = mono_N if rate_hz == wanted_hz else resample(mono_N, rate_hz, wanted_hz)
    return mono_N if seconds is None else _middle(mono_N, round(seconds * wanted_hz))


def _middle(samples_N: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    missing = max(count - len(samples_N), 0)
    padded_N = np.pad(samples_N, (missing // 2, missing - missing // 2))
    first = (len(padded_N) - count) // 2
    return padded_N[first : first + count]
