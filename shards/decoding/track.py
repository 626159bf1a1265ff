"""What is known of a media file before anything is decoded: its packets, their times, and the limits they must keep."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from trichord.core.errors import Cause, SampleError

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Deadline:
    """The moment by which a sample must be done; asked between packets, since a call into C cannot be interrupted."""

    at: float
    allowed_s: float

    def check(self) -> None:
        """Refuse the sample when its time is up."""
        if time.monotonic() > self.at:
            raise SampleError(Cause.TIMEOUT, f"not decoded within {self.allowed_s:g} s")


@dataclass(frozen=True)
class DecodeLimits:
    """What one sample may cost; beyond it the sample is refused under a cause of its own."""

    max_bytes: int = 256 << 20  # as StreamConfig has it, so that what verifies is also read
    max_pixels: int = 4096 * 2304
    max_decoded_bytes: int = 8 << 30  # of frames held at once
    max_packets: int = 1_000_000
    max_seconds: float = 4 * 3600.0
    timeout_s: float = 30.0

    def start(self) -> Deadline:
        """Start the clock for one sample."""
        return Deadline(time.monotonic() + self.timeout_s, self.timeout_s)

    def check_bytes(self, size: int) -> None:
        """Refuse a member before it is parsed."""
        if size == 0:
            raise SampleError(Cause.EMPTY, "the media member has no bytes")
        if size > self.max_bytes:
            raise SampleError(Cause.TOO_MANY_BYTES, f"{size} bytes, the limit is {self.max_bytes}")

    def check_pixels(self, width: int, height: int) -> None:
        """Refuse a picture before a buffer for it exists."""
        if width * height > self.max_pixels:
            raise SampleError(Cause.TOO_MANY_PIXELS, f"{width}x{height}, the limit is {self.max_pixels} pixels")

    def check_frames(self, frames: int, width: int, height: int) -> None:
        """Refuse pictures that would fill the memory together, though each alone is small enough."""
        if 3 * frames * width * height > self.max_decoded_bytes:
            raise SampleError(
                Cause.TOO_MANY_PIXELS,
                f"{frames} frames of {width}x{height}, the limit is {self.max_decoded_bytes} bytes",
            )

    def check_packets(self, packets: int) -> None:
        """Refuse an endless stream."""
        if packets > self.max_packets:
            raise SampleError(Cause.TOO_MANY_FRAMES, f"{packets} packets, the limit is {self.max_packets}")

    def check_seconds(self, seconds: float) -> None:
        """Refuse time stamps that would make windows of years; one forged number is enough for those."""
        if not seconds <= self.max_seconds:
            raise SampleError(Cause.TOO_LONG, f"{seconds:.0f} s, the limit is {self.max_seconds:.0f} s")


@dataclass
class Track:
    """The packets of one stream in decode order, with presentation times in seconds of the file's own clock."""

    codec: str
    times_s: Seconds
    sync: Bools
    shown: Bools  # False for what an edit list or the container hides
    extradata: bytes | None = None
    width: int = 0
    height: int = 0
    quarter_turns: int = 0  # anticlockwise, to be applied to decoded frames
    sample_rate: int = 0
    channels: int = 0
    nal_length_size: int = 0  # H.264 with lengths before its units: how many bytes hold one; otherwise 0
    offsets: Ints | None = None  # into the file, where its own tables were read
    sizes: Ints | None = None
    packets: list[bytes] = field(default_factory=list)  # where libavformat demuxed it
    context: Any = None  # libavformat's decoder, configured by the container
    container: Any = None  # keeps what `context` belongs to alive
    frames_per_second: float = 0.0
    has_times: bool = True  # False where the container tells no presentation times (some AVI files)

    def __len__(self) -> int:
        return len(self.sync)

    def payload(self, data: memoryview, number: int) -> bytes | memoryview:
        """Give one packet's bytes."""
        if self.offsets is None or self.sizes is None:
            return self.packets[number]
        start = int(self.offsets[number])
        return data[start : start + int(self.sizes[number])]


def make_packet(payload: bytes | memoryview, number: int) -> Any:
    """Wrap a packet's bytes for a decoder, with its number for a time: the decoded frame brings it back.

    The bytes are copied into memory that libavcodec allocates, because its readers look some bytes beyond the end;
    a packet made from a Python buffer lacks that padding, and what stands behind it changes the decoded picture.
    """
    packet: Any = av.Packet(len(payload))
    packet.update(payload)
    packet.pts = packet.dts = number
    return packet


@dataclass
class MediaIndex:
    """The two streams that matter; a further audio or video stream is ignored, as players do."""

    video: Track | None
    audio: Track | None
