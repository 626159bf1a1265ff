"""Open media of any origin with libavformat: the formats, limits and the deadline that apply wherever it is opened."""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import av

from trichord.core.errors import Cause, SampleError
from trichord.shards.decoding.track import Deadline, DecodeLimits

# Only self-contained containers. Playlists (HLS, DASH, concat, SDP) refer to other files or addresses, which
# libavformat would open on behalf of an untrusted sample.
FORMATS = (
    *(
        "mov",
        "matroska",
        "webm",
        "avi",
        "mpeg",
        "mpegts",
        "mpegvideo",
        "flv",
        "asf",
        "ogg",
        "mxf",
        "gif",
        "h264",
        "hevc",
    ),
    *("m4v", "obu", "ivf", "wav", "mp3", "flac", "aac", "nut", "dv", "rm"),
)


class _TimedBytes(io.BytesIO):
    """An in-memory file that stops a demuxer at the deadline."""

    def __init__(self, data: bytes, deadline: Deadline) -> None:
        super().__init__(data)
        self.deadline = deadline

    def read(self, size: int | None = -1, /) -> bytes:
        self.deadline.check()
        return super().read(size)


@contextmanager
def media_errors(cause: Cause, what: str) -> Generator[None]:
    """Raise a SampleError in place of the errors with which FFmpeg and its binding meet unusable media."""
    try:
        yield
    except (av.FFmpegError, ValueError, ArithmeticError, MemoryError) as error:
        raise SampleError(cause, f"{what}: {str(error) or type(error).__name__}") from error


def open_container(data: bytes, limits: DecodeLimits, deadline: Deadline | None) -> Any:
    """Open a media file that is in memory; without a deadline only if it has been indexed within one.

    The deadline is checked in a callback of libavformat, where an exception of a signal handler is lost and the file
    appears to end. So what signals interrupt, such as a build, opens files without it.
    """
    limits.check_bytes(len(data))
    file = io.BytesIO(data) if deadline is None else _TimedBytes(data, deadline)
    # Probing decodes pictures to determine their size, so the limit must also apply to that decoder.
    options = {"max_pixels": str(limits.max_pixels), "format_whitelist": ",".join(FORMATS)}
    with media_errors(Cause.UNREADABLE_VIDEO, "cannot be opened"):
        return av.open(file, options=options, metadata_errors="replace")


def first_streams(container: Any, limits: DecodeLimits) -> list[Any]:
    """Return the first video and the first audio stream, without those of unknown codecs, to decode in one thread."""
    first = [kind[0] for kind in (container.streams.video, container.streams.audio) if kind]
    streams = [stream for stream in first if stream.codec_context is not None]
    for stream in streams:
        context = stream.codec_context
        limits.check_pixels(getattr(context, "width", 0), getattr(context, "height", 0))
        context.thread_count = 1  # frame threads can deadlock if a decoder is freed with frames in flight
        context.options = {"max_pixels": str(limits.max_pixels)}
    return streams


def read_packets(container: Any, streams: list[Any], limits: DecodeLimits, deadline: Deadline) -> Iterator[Any]:
    """Yield the packets of streams, and at the end an empty one for each, as long as limits and deadline allow."""
    with media_errors(Cause.UNREADABLE_VIDEO, "while reading packets"):
        for number, packet in enumerate(container.demux(streams) if streams else ()):
            limits.check_packets(number)
            deadline.check()
            yield packet
