"""Decode one sample completely, video and audio, and return its properties.

Legend: N audio samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from trichord.shards.decoding.track import DecodeLimits
from trichord.shards.decoding.video import Video, open_video
from trichord.shards.record import RawSample

_SOUND_WINDOW_S = 30.0  # decoded at a time, so that a long track takes no more memory than a short one
_SOUND_RATE = 16000


class Sound(StrEnum):
    """Whether a clip has audio: with signal, all zero, or no track."""

    HEARD = "heard"
    ALL_ZERO = "all_zero"
    NO_TRACK = "no_track"


@dataclass(frozen=True)
class ClipFacts:
    """The properties of a decoded clip."""

    seconds: float
    frames: int
    frames_per_second: float
    width: int
    height: int
    bytes: int
    video_codec: str
    sound_codec: str | None
    sound: Sound
    damaged_frames: int  # decoded, but the decoder had to conceal errors in them
    has_caption: bool
    has_labels: bool


def check_clip(raw: RawSample, limits: DecodeLimits) -> ClipFacts:
    """Decode everything and return the clip's properties; raise SampleError for the first defect."""
    annotation = raw.annotation()
    data = raw.video()
    video = open_video(data, limits)
    damaged = sum(bool(frame.is_corrupt) for frame in video.walk())
    sound = _check_sound(video)
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


def _check_sound(video: Video) -> Sound:
    """Decode the whole audio track, window by window, and classify it."""
    if not video.has_sound:
        return Sound.NO_TRACK
    is_audible = False
    for window in range(math.ceil(video.duration_s / _SOUND_WINDOW_S)):
        start_s = window * _SOUND_WINDOW_S
        sound_N = video.sound(start_s, min(start_s + _SOUND_WINDOW_S, video.duration_s), _SOUND_RATE)
        is_audible = is_audible or (sound_N is not None and bool(sound_N.any()))
    return Sound.HEARD if is_audible else Sound.ALL_ZERO
