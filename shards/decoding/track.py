"""Properties of a media file before decoding: its packets, their times, and the limits that apply to them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from trichord.core.errors import Cause, SampleError

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Seconds = npt.NDArray[np.float64]


class Deadline:
    """The time limit of a sample; checked between packets, because a call into C cannot be interrupted.

    It counts the processor time of the thread, as its bytes are in memory and nothing is waited for. So a busy machine
    does not turn good samples into bad ones. In another thread, the count starts anew.
    """

    def __init__(self, allowed_s: float) -> None:
        self.allowed_s = allowed_s
        self._thread, self._start_s = get_ident(), time.thread_time()

    def check(self) -> None:
        """Raise SampleError after the deadline."""
        if self._thread != get_ident():
            self._thread, self._start_s = get_ident(), time.thread_time()
        if time.thread_time() - self._start_s > self.allowed_s:
            raise SampleError(Cause.TIMEOUT, f"not decoded within {self.allowed_s:g} s of processor time")


@dataclass(frozen=True)
class DecodeLimits:
    """The resources that one sample may use; each limit refuses samples with its own cause."""

    max_bytes: int = 256 << 20  # as in StreamConfig, so that verified samples can also be read
    max_pixels: int = 4096 * 2304
    max_decoded_bytes: int = 768 << 20  # of all frames in memory at once: 290 of 1280x720
    max_packets: int = 1_000_000
    max_seconds: float = 4 * 3600.0
    timeout_s: float = 30.0  # of processor time

    def start(self) -> Deadline:
        """Start the clock for one sample."""
        return Deadline(self.timeout_s)

    def check_bytes(self, size: int) -> None:
        """Refuse an empty or too large member before it is parsed."""
        if size == 0:
            raise SampleError(Cause.EMPTY, "the media member has no bytes")
        if size > self.max_bytes:
            raise SampleError(Cause.TOO_MANY_BYTES, f"{size} bytes, the limit is {self.max_bytes}")

    def check_pixels(self, width: int, height: int) -> None:
        """Refuse a too large picture before its buffer is allocated."""
        if width * height > self.max_pixels:
            raise SampleError(Cause.TOO_MANY_PIXELS, f"{width}x{height}, the limit is {self.max_pixels} pixels")

    def check_frames(self, frames: int, width: int, height: int) -> None:
        """Refuse frames whose total size is too large, even if each single one is small enough."""
        if 3 * frames * width * height > self.max_decoded_bytes:
            raise SampleError(
                Cause.TOO_MANY_PIXELS,
                f"number of frames of {width}x{height}: {frames}, the limit is {self.max_decoded_bytes} bytes",
            )

    def check_packets(self, packets: int) -> None:
        """Refuse a stream with too many packets."""
        if packets > self.max_packets:
            raise SampleError(Cause.TOO_MANY_FRAMES, f"{packets} packets, the limit is {self.max_packets}")

    def check_seconds(self, seconds: float) -> None:
        """Refuse time stamps that would produce windows of years, as a single forged number can."""
        if not seconds <= self.max_seconds:
            raise SampleError(Cause.TOO_LONG, f"{seconds:.0f} s, the limit is {self.max_seconds:.0f} s")


@dataclass
class Track:
    """The packets of one stream in decode order, with presentation times in seconds of the file's own clock."""

    codec: str
    times_s: Seconds
    sync: Bools
    shown: Bools  # False for packets hidden by an edit list or the container
    extradata: bytes | None = None
    width: int = 0
    height: int = 0
    quarter_turns: int = 0  # anticlockwise, to be applied to decoded frames
    sample_rate: int = 0
    channels: int = 0
    nal_length_size: int = 0  # bytes of each length prefix in H.264; 0 without prefixes
    offsets: Ints | None = None  # in the file, if its own tables were read
    sizes: Ints | None = None
    packets: list[bytes] = field(default_factory=list)  # if demuxed by libavformat
    context: Any = None  # libavformat's decoder, configured by the container
    container: Any = None  # keeps the owner of `context` alive
    frames_per_second: float = 0.0
    has_times: bool = True  # False if the container stores no presentation times (some AVI files)

    def __len__(self) -> int:
        return len(self.sync)

    @property
    def byte_count(self) -> int:
        """Bytes of all packets together."""
        return sum(map(len, self.packets)) if self.sizes is None else int(self.sizes.sum())

    def payload(self, data: memoryview, number: int) -> bytes | memoryview:
        """Return the bytes of one packet."""
        if self.offsets is None or self.sizes is None:
            return self.packets[number]
        start = int(self.offsets[number])
        return data[start : start + int(self.sizes[number])]


def make_packet(payload: bytes | memoryview, number: int) -> Any:
    """Wrap a packet's bytes for a decoder, with its number as its time; the decoded frame carries the same time.

    The bytes are copied into memory allocated by libavcodec, because its parsers read some bytes beyond the end. A
    packet made from a Python buffer lacks that padding, and the bytes after it would change the decoded picture.
    """
    packet: Any = av.Packet(len(payload))
    packet.update(payload)
    packet.pts = packet.dts = number
    return packet


@dataclass
class MediaIndex:
    """The first video and the first audio stream; others are ignored, as in players."""

    video: Track | None
    audio: Track | None
