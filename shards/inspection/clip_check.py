"""Decode one sample to the last frame and the last moment of its sound, and say what it is.

Legend: N sound samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from trichord.shards.decoding.track import DecodeLimits
from trichord.shards.decoding.video import Video, open_video
from trichord.shards.record import RawSample

_SOUND_WINDOW_S = 30.0  # decoded at once, so that a long track takes no more memory than a short one
_SOUND_RATE = 16000


class Sound(StrEnum):
    """What there is to hear."""

    HEARD = "heard"
    ALL_ZERO = "all_zero"
    NO_TRACK = "no_track"


@dataclass(frozen=True)
class ClipFacts:
    """What a clip turned out to be."""

    seconds: float
    frames: int
    frames_per_second: float
    width: int
    height: int
    bytes: int
    video_codec: str
    sound_codec: str | None
    sound: Sound
    damaged_frames: int  # decoded, but the decoder had to make up parts of them
    has_caption: bool
    has_labels: bool


def check_clip(raw: RawSample, limits: DecodeLimits) -> ClipFacts:
    """Decode everything; raise SampleError with the first thing that is wrong."""
    annotation = raw.annotation()
    data = raw.video()
    video = open_video(data, limits)
    damaged = sum(bool(frame.is_corrupt) for frame in video.walk())
    sound = _listen(video)
    video_codec, sound_codec = video.codecs
    return ClipFacts(
        seconds=video.duration_s,
        frames=len(video),
        frames_per_second=video.frames_per_second,
        width=video.width,
        height=video.height,
        bytes=len(data),
        video_codec=video_codec,
        sound_codec=sound_codec,
        sound=sound,
        damaged_frames=damaged,
        has_caption=bool(annotation.captions),
        has_labels=bool(annotation.labels or annotation.intervals),
    )


def _listen(video: Video) -> Sound:
    """Decode the whole sound, window by window."""
    if not video.has_sound:
        return Sound.NO_TRACK
    is_heard = False
    for window in range(math.ceil(video.duration_s / _SOUND_WINDOW_S)):
        start_s = window * _SOUND_WINDOW_S
        sound_N = video.sound(start_s, min(start_s + _SOUND_WINDOW_S, video.duration_s), _SOUND_RATE)
        is_heard = is_heard or (sound_N is not None and bool(sound_N.any()))
    return Sound.HEARD if is_heard else Sound.ALL_ZERO
