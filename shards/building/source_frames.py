"""Frames of a source, or of a part of it, with their source times, as input of the encoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av

from trichord.core.errors import Cause, SampleError
from trichord.shards.decoding.container import first_streams, open_container, read_packets
from trichord.shards.decoding.track import Deadline, DecodeLimits

_MAX_FAULT_FRACTION = 0.05  # fraction of packets that may fail to decode, as in players; above it the clip is refused
_SEEK_FROM_S = 5.0  # parts that start earlier are reached by decoding from the beginning
_TOLERANCE = Fraction(1, 1000)  # some containers store times in milliseconds


@dataclass(frozen=True)
class Part:
    """The part of a source to keep, in seconds from its first frame; `end` None means to the end."""

    start: float = 0.0
    end: float | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the part is the whole source."""
        return self.start <= 0 and self.end is None


@dataclass(frozen=True)
class Clock:
    """The timing of the source's video stream, and the aspect ratio of its pixels."""

    first: Fraction  # time of the first displayed frame, as stored in the container
    rate: Fraction
    tick: Fraction
    aspect: Fraction


@dataclass(frozen=True)
class MediaSource:
    """The bytes of a source, and what may be spent on it."""

    data: bytes
    limits: DecodeLimits
    deadline: Deadline
    has_times: bool  # False if the container stores decode order only (AVI with B-frames)

    def open(self) -> Any:
        """Open it with libavformat; `make_medium` has indexed it."""
        return open_container(self.data, self.limits, None)

    def stream(self, container: Any, kind: str) -> Any:
        """Return the first stream of a kind, or None if there is none that can be decoded."""
        streams = first_streams(container, self.limits)
        return next((stream for stream in streams if stream.type == kind), None)

    def packets(self, container: Any, stream: Any) -> Iterator[Any]:
        """Yield the packets of a stream."""
        return read_packets(container, [stream], self.limits, self.deadline)

    def video(self, container: Any) -> Any:
        """Return the first video stream."""
        found = self.stream(container, "video")
        if found is None:
            raise SampleError(Cause.NO_VIDEO, "no video stream that can be decoded")
        return found


def read_clock(source: MediaSource) -> Clock:
    """Return the clock of the first video stream; without presentation times, one tick is one frame."""
    with source.open() as container:
        return _clock(source.video(container), source.has_times)


def _clock(stream: Any, has_times: bool) -> Clock:
    rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
    return Clock(
        first=Fraction((stream.start_time or 0) * stream.time_base),
        rate=rate,
        tick=max(Fraction(stream.time_base) if has_times else 1 / rate, Fraction(1, 90_000)),
        aspect=Fraction(stream.sample_aspect_ratio or 1) or Fraction(1),
    )


def part_frames(source: MediaSource, part: Part, clock: Clock) -> Iterator[tuple[Fraction, Any]]:
    """Decode the part; yield each frame with its time in the source."""
    start = clock.first + Fraction(part.start) - _TOLERANCE
    end = None if part.end is None else clock.first + Fraction(part.end)
    seek_to: Fraction | None = None
    if source.has_times and part.start > _SEEK_FROM_S:
        with source.open() as container:
            reached = next(_decoded(source, container, clock, start), None)
        seek_to = start if reached is not None and reached[0] <= start else None  # some containers overshoot
    with source.open() as container:
        for time, frame in _decoded(source, container, clock, seek_to):
            if end is not None and time >= end - _TOLERANCE:
                break
            if part.start <= 0 or time >= start:
                yield time, frame


def _decoded(
    source: MediaSource, container: Any, clock: Clock, seek_to: Fraction | None
) -> Iterator[tuple[Fraction, Any]]:
    stream = source.video(container)
    stream.thread_type = "NONE"  # frame threads can deadlock if the loop is left early
    if seek_to is not None:
        container.seek(int(seek_to / stream.time_base), stream=stream, backward=True)
    latest: Fraction | None = None
    number, packets, faults = 0, 0, 0
    for packet in source.packets(container, stream):
        packets += 1
        try:
            frames = packet.decode()
        except av.FFmpegError:
            faults += 1
            continue
        for frame in frames:
            moment = frame.pts if frame.pts is not None else frame.dts
            source.limits.check_pixels(frame.width, frame.height)
            if not source.has_times:
                time = clock.first + number / clock.rate
            elif moment is not None:
                time = Fraction(moment * frame.time_base)
            else:
                time = clock.first if latest is None else latest + 1 / clock.rate
            number += 1
            if latest is None or time > latest:  # of two frames with the same time, only one can be displayed
                latest = time
                yield time, frame
    if faults > _MAX_FAULT_FRACTION * packets:
        raise SampleError(Cause.CODEC, f"{faults} of {packets} packets cannot be decoded ({stream.codec_context.name})")


def thinned(
    frames: Iterator[tuple[Fraction, Any]], rate: Fraction, max_fps: float | None
) -> Iterator[tuple[Fraction, Any]]:
    """Yield at most one frame for each period of `max_fps`; frames keep their times."""
    if max_fps is None or rate <= max_fps * 1.01:
        yield from frames
        return
    origin: Fraction | None = None
    taken = -1
    for time, frame in frames:
        origin = time if origin is None else origin
        place = int((time - origin) * Fraction(max_fps) + Fraction(1, 4))  # a quarter period, as times may jitter
        if place > taken:
            taken = place
            yield time, frame
