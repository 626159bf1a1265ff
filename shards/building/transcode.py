"""Build a shard's media member from a source file: copied unchanged, remuxed to mp4, or re-encoded for training."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import av

from trichord.core.errors import Cause, SampleError
from trichord.shards.building.encode import Preset, encode, lossless_gray
from trichord.shards.building.source_frames import MediaSource, Part
from trichord.shards.decoding.container import media_errors, read_packets
from trichord.shards.decoding.demux import index_media
from trichord.shards.decoding.track import Deadline, DecodeLimits
from trichord.shards.decoding.video import Video
from trichord.shards.record import VIDEO_EXTENSIONS

__all__ = ["Medium", "Mode", "Part", "Preset", "lossless_gray", "make_medium"]

# A source may be an hour-long film from which clips are cut, so its limits are wider than those of a shard's members.
SOURCE_LIMITS = DecodeLimits(max_bytes=16 << 30, max_pixels=8192 * 4352, timeout_s=600.0)
_ENCODE_S = 0.5  # processor time to re-encode a frame, above what slow presets need, so that hours of film can be built
_VIDEO_IN_MP4 = frozenset({"h264", "hevc", "av1", "vp9", "mpeg4"})
_SOUND_IN_MP4 = frozenset({"aac", "mp3", "opus", "flac", "ac3", "eac3", "alac"})


class Mode(StrEnum):
    """How the bytes of a video are processed."""

    COPY = "copy"  # the unchanged file, with its own extension
    REMUX = "remux"  # the same packets in an mp4 with its index at the front; re-encoded if mp4 does not support them
    ENCODE = "encode"  # re-encoded with the training preset


@dataclass(frozen=True)
class Medium:
    """A finished member and its properties, as read back from its data."""

    data: bytes
    extension: str
    duration_s: float
    fps: float
    width: int
    height: int
    has_sound: bool


def make_medium(data: bytes, extension: str, mode: Mode, preset: Preset, part: Part | None = None) -> Medium:
    """Build the member; raise SampleError for a source that cannot be read, so that it is left out and recorded.

    A part of a source is always re-encoded, because packets can only be cut at sync samples; in the modes `copy` and
    `remux` it keeps its size and rate.
    """
    part = part or Part()
    deadline = SOURCE_LIMITS.start()
    index = index_media(data, SOURCE_LIMITS, deadline)
    video = Video(data, index, SOURCE_LIMITS, deadline)
    if part.start >= video.duration_s:
        detail = f"the clip starts at {part.start:g} s, but the source lasts {video.duration_s:.2f} s"
        raise SampleError(Cause.NO_VIDEO, detail)
    extension = extension.lower().lstrip(".")
    if mode is Mode.COPY and part.is_whole and extension in VIDEO_EXTENSIONS:
        return _medium(data, extension, video)
    deadline = Deadline(SOURCE_LIMITS.timeout_s + _ENCODE_S * len(video))
    source = MediaSource(data, SOURCE_LIMITS, deadline, has_times=index.video is not None and index.video.has_times)
    if mode is not Mode.ENCODE:
        preset = preset.model_copy(update={"short_side": None, "max_fps": None})
        remuxed = _remux(source) if part.is_whole and source.has_times else None
        if remuxed is not None:
            return _checked(remuxed)
    with media_errors(Cause.CODEC, "cannot be re-encoded"):
        return _checked(encode(source, preset, part))


def _checked(data: bytes) -> Medium:
    """Read the properties of the output back through its index, to verify it."""
    index = index_media(data, SOURCE_LIMITS, SOURCE_LIMITS.start())
    return _medium(data, "mp4", Video(data, index, SOURCE_LIMITS, SOURCE_LIMITS.start()))


def _medium(data: bytes, extension: str, video: Video) -> Medium:
    return Medium(
        data, extension, video.duration_s, video.frames_per_second, video.width, video.height, video.has_sound
    )


def _remux(source: MediaSource) -> bytes | None:
    """Copy the packets into an mp4; return None if mp4 does not support them."""
    with source.open() as container:
        streams = [container.streams.video[0], *container.streams.audio[:1]]
        names = [None if stream.codec_context is None else stream.codec_context.name for stream in streams]
        if names[0] not in _VIDEO_IN_MP4 or not _SOUND_IN_MP4.issuperset(name for name in names[1:]):
            return None
        try:
            with tempfile.TemporaryDirectory() as folder:  # moving the index to the front needs a real file
                path = Path(folder, "clip.mp4")
                with media_errors(Cause.CODEC, "cannot be remuxed"):
                    _copy_packets(source, container, streams, path)
                return path.read_bytes()
        except SampleError as error:
            if error.cause is Cause.TIMEOUT:
                raise
            return None


def _copy_packets(source: MediaSource, container: Any, streams: list[Any], path: Path) -> None:
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(path), "w", format="mp4", options=options) as target:
        copies = {stream.index: target.add_stream_from_template(stream) for stream in streams}
        found = read_packets(container, streams, source.limits, source.deadline)
        packets = [packet for packet in found if packet.size]
        _complete_decode_times([packet for packet in packets if packet.stream.type == "video"])
        for packet in packets:
            packet.stream = copies[packet.stream.index]
            target.mux(packet)


def _complete_decode_times(packets: list[Any]) -> None:
    """Set all decode times, if any is missing, to the latest increasing times that are not after presentation.

    Matroska stores presentation times only, and the decode times that libavformat derives from them start too late.
    """
    if all(packet.dts is not None for packet in packets):
        return
    if any(packet.pts is None for packet in packets):
        raise ValueError("packets without any time")
    in_order = sorted(packet.pts for packet in packets)
    delay = max(time - packet.pts for time, packet in zip(in_order, packets, strict=True))
    for time, packet in zip(in_order, packets, strict=True):
        packet.dts = time - delay
