"""Damaged and forged media files: whatever they are, they are read, built and verified, or refused with a cause."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache

import av
import numpy as np

from tests.fuzzing.mutation import mutate
from tests.fuzzing.subject import Subject
from tests.shards import media
from trichord.core.errors import SampleError
from trichord.shards.building import transcode
from trichord.shards.building.source_frames import Part
from trichord.shards.building.transcode import Mode, Preset, make_medium
from trichord.shards.decoding.track import DecodeLimits
from trichord.shards.decoding.video import open_video
from trichord.shards.inspection.verify_report import check_clip
from trichord.shards.record import RawSample

ALLOWED_S = 4.0  # of processor time for a file; a call into a codec that is running is not interrupted
LIMITS = DecodeLimits(timeout_s=ALLOWED_S)
_PRESET = Preset(short_side=32, speed="ultrafast")

# Container, video codec and audio codec of the files that are damaged.
_KINDS = {
    "mp4": ("mp4", "libx264", "aac"),
    "fragmented": ("mp4", "libx264", "aac"),
    "mpeg4": ("mp4", "mpeg4", "aac"),
    "mkv": ("matroska", "libx264", "aac"),
    "webm": ("webm", "libvpx", "libopus"),
    "avi": ("avi", "mpeg4", "mp3"),
    "ts": ("mpegts", "libx264", "aac"),
    "mpg": ("mpeg", "mpeg1video", "mp2"),
    "flv": ("flv", "libx264", "aac"),
    "mov": ("mov", "mpeg4", "pcm_s16le"),
    "mxf": ("mxf", "mpeg2video", "pcm_s16le"),
}


@cache
def sources() -> Mapping[str, bytes]:
    """Return an ordinary file of each kind that can be written here."""
    made: dict[str, bytes] = {}
    pictures, sound = media.moving_picture(14, 48, 32), media.tone(0.5, 32000)
    for name, (container, video, audio) in _KINDS.items():
        muxer = {"movflags": "frag_keyframe+empty_moov"} if name == "fragmented" else None
        options = {"g": "5"}
        options |= {"preset": "ultrafast"} if video == "libx264" else {}
        try:
            made[name] = media.encode(
                pictures,
                sound,
                container=container,
                codec=video,
                sound_codec=audio,
                sound_rate=48000 if audio == "libopus" or container == "mxf" else 32000,
                options=options,
                muxer_options=muxer,
            )
        except (av.FFmpegError, ValueError):  # an encoder that this build of FFmpeg lacks
            continue
    return made


def _build(mode: Mode, part: Part | None = None) -> Callable[[str, bytes], None]:
    def build(extension: str, data: bytes) -> None:
        make_medium(data, extension, mode, _PRESET, part)

    return build


def _read(extension: str, data: bytes) -> None:
    video = open_video(data, LIMITS)
    video.frames([0, len(video) // 2, len(video) - 1])
    video.sound(0.0, 0.4, 16000)


def _verify(extension: str, data: bytes) -> None:
    check_clip(RawSample("clip", "00000.tar", {extension: data}), LIMITS)


USES: Mapping[str, Callable[[str, bytes], None]] = {
    "copy": _build(Mode.COPY),
    "remux": _build(Mode.REMUX),
    "encode": _build(Mode.ENCODE),
    "part": _build(Mode.REMUX, Part(0.1, 0.4)),
    "read": _read,
    "verify": _verify,
}


class Media(Subject):
    """Files of every container, in every mode of building, read and verified."""

    allowed_s = ALLOWED_S

    def prepare(self) -> None:
        sources()

    def run(self, seed: int, number: int) -> str:
        rng = np.random.default_rng([seed, number])
        name = list(sources())[number % len(sources())]
        use = list(USES)[number // len(sources()) % len(USES)]
        data = mutate(sources()[name], rng)
        extension = _KINDS[name][0] if name not in ("fragmented", "mpeg4") else "mp4"
        limits, transcode.SOURCE_LIMITS = transcode.SOURCE_LIMITS, replace(transcode.SOURCE_LIMITS, timeout_s=ALLOWED_S)
        try:
            USES[use](extension, data)
            return "used"
        except SampleError as error:
            return str(error.cause)
        finally:
            transcode.SOURCE_LIMITS = limits
