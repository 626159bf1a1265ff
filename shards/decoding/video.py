"""Decode only the requested frames, bit for bit the same as with a full decode.

For each requested frame, the packets from its sync sample on are decoded, except H.264 pictures to which no other
refers (nal_ref_idc 0). Each clip uses one decoder thread: clips are decoded in parallel, and FFmpeg's frame threads can
deadlock when a decoder is freed with frames in flight.

Legend: T frames, H height, W width, C colour, N sound samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from trichord.core.errors import Cause, SampleError
from trichord.shards.decoding.container import media_errors
from trichord.shards.decoding.decoders import video_decoder
from trichord.shards.decoding.demux import index_media
from trichord.shards.decoding.sound import decode_sound
from trichord.shards.decoding.track import Bools, Deadline, DecodeLimits, Ints, MediaIndex, Seconds, Track, make_packet

Pixels = npt.NDArray[np.uint8]
_MAX_UNITS = 40_000  # per packet: the largest picture has 36,864 macroblocks, and each slice has at least one


class Video:
    """An indexed clip whose frames and sound are decoded on demand. Its clock starts with its first frame."""

    def __init__(self, data: bytes, index: MediaIndex, limits: DecodeLimits, deadline: Deadline) -> None:
        if index.video is None or not index.video.shown.any():
            raise SampleError(Cause.NO_VIDEO, "no video stream, or no frames in it")
        self._data, self._limits, self._deadline = memoryview(data), limits, deadline
        self._track, self._audio = index.video, index.audio
        if not self._track.has_times:
            _number_frames(self._track, self._all_frames())
        shown = np.flatnonzero(self._track.shown)
        self._packet_of_frame: Ints = shown[np.argsort(self._track.times_s[shown], kind="stable")]
        self._origin_s = float(self._track.times_s[self._packet_of_frame[0]])
        self.times_s: Seconds = self._track.times_s[self._packet_of_frame] - self._origin_s
        limits.check_seconds(self.duration_s)
        sideways = self._track.quarter_turns % 2 == 1
        self.width, self.height = (
            (self._track.height, self._track.width) if sideways else (self._track.width, self._track.height)
        )

    def __len__(self) -> int:
        return len(self.times_s)

    @property
    def frames_per_second(self) -> float:
        """Average frame rate of the stream."""
        return self._track.frames_per_second

    @property
    def duration_s(self) -> float:
        """Duration from the first frame to the end of the last one."""
        return float(self.times_s[-1]) + 1.0 / self.frames_per_second

    @property
    def has_sound(self) -> bool:
        """Whether there is a sound track that is not empty."""
        return self._audio is not None and len(self._audio) > 0

    def frames(self, indices: Sequence[int] | Ints) -> Pixels:
        """Return frames by their index in presentation order, as RGB, in the order of `indices`."""
        wanted = np.asarray(indices, np.int64)
        if wanted.size == 0 or wanted.min() < 0 or wanted.max() >= len(self):
            raise IndexError(f"frame indices {wanted.tolist()}: expected one or more from 0 to {len(self) - 1}")
        packets_T = self._packet_of_frame[wanted]
        unique, inverse = np.unique(packets_T, return_inverse=True)
        found = self._convert(self._planned_frames(unique), unique)
        if found is None:  # index and decoder disagree, e.g. on field pairs: decode everything
            found = self._convert(self._all_frames(), unique)
        if found is None:
            raise SampleError(Cause.TRUNCATED_VIDEO, "the decoder returns fewer frames than the container lists")
        frames_THWC = np.rot90(found, self._track.quarter_turns, (1, 2)) if self._track.quarter_turns else found
        ordered = np.array_equal(inverse, np.arange(len(unique)))
        return np.ascontiguousarray(frames_THWC if ordered else frames_THWC[inverse])

    def walk(self) -> Iterator[Any]:
        """Yield every frame once, in order and without colour conversion, to check that the whole clip decodes."""
        shown = self._track.shown
        decoded_packets = np.zeros(len(shown), np.bool_)
        size = None
        for frame in self._all_frames():
            size = size or (frame.width, frame.height)
            if size != (frame.width, frame.height):
                raise SampleError(Cause.CODEC, f"the picture size changes to {frame.width}x{frame.height}")
            if frame.pts is not None:
                decoded_packets[frame.pts] = True
            yield frame
        decoded = int((decoded_packets & shown).sum())
        if decoded < len(self):
            raise SampleError(Cause.TRUNCATED_VIDEO, f"only {decoded} of {len(self)} frames can be decoded")

    @property
    def codecs(self) -> tuple[str, str | None]:
        """Names of the video codec and the audio codec."""
        return self._track.codec, self._audio.codec if self._audio is not None and self.has_sound else None

    def sound(self, start_s: float, end_s: float, rate: int) -> npt.NDArray[np.float32] | None:
        """Return mono sound of a window on the clip's clock, exactly round((end - start) * rate) samples.

        Samples are zero where the track has no sound; the result is None without a track.
        """
        if self._audio is None or len(self._audio) == 0:
            return None
        shift = self._origin_s
        return decode_sound(self._data, self._audio, start_s + shift, end_s + shift, rate, self._deadline)

    def _convert(self, decoded: Iterator[Any], packets: Ints) -> Pixels | None:
        """Return the frames of these packets (sorted) as RGB, or None if one is not decoded."""
        place = {int(packet): number for number, packet in enumerate(packets)}
        reformatter = VideoReformatter()
        out: Pixels | None = None
        for frame in decoded:
            number = place.pop(frame.pts, None)
            if number is None:
                continue
            if out is None:
                self._limits.check_frames(len(packets), frame.width, frame.height)
                out = np.empty((len(packets), frame.height, frame.width, 3), np.uint8)
                self._adopt(frame)
            if out.shape[1:3] != (frame.height, frame.width):
                raise SampleError(Cause.CODEC, f"the picture size changes to {frame.width}x{frame.height}")
            out[number] = _rgb(reformatter, frame)
            if not place:
                return out
        return None

    def _adopt(self, frame: Any) -> None:
        """Take the size from the decoder, and also the rotation if the container was demuxed by libavformat."""
        if self._track.context is not None:
            self._track.quarter_turns = round(frame.rotation / 90) % 4
        sideways = self._track.quarter_turns % 2 == 1
        self.width, self.height = (frame.height, frame.width) if sideways else (frame.width, frame.height)

    def _planned_frames(self, wanted: Ints) -> Iterator[Any]:
        track = self._track
        if not track.has_times:
            yield from self._all_frames()
            return
        is_wanted = np.zeros(len(track), np.bool_)
        is_wanted[wanted] = True
        yield from self._decode(segments(track, wanted), is_wanted)

    def _all_frames(self) -> Iterator[Any]:
        """Decode everything; a frame's pts is its packet's number, or its own number if the container has no times."""
        frames = self._decode([(0, len(self._track))], None)
        if self._track.has_times:
            yield from frames
            return
        for number, frame in enumerate(frames):
            frame.pts = number
            yield frame

    def _decode(self, spans: list[tuple[int, int]], wanted: Bools | None) -> Iterator[Any]:
        """Decode spans of packets with one decoder; the pts of each frame is the number of its packet."""
        track, data = self._track, self._data
        with video_decoder(track, self._limits) as decoder:
            decode = decoder.context.decode
            with media_errors(Cause.CODEC, track.codec):
                for span_number, (start, stop) in enumerate(spans):
                    if span_number and not look_into(track, track.payload(data, start)).is_fresh_start:
                        yield from decode(None)
                        decoder.context.flush_buffers()
                    for number in range(start, stop):
                        self._deadline.check()  # first, as all packets may be disposable
                        payload = track.payload(data, number)
                        seen = look_into(track, payload)
                        decoder.spoilt |= seen.has_parameters
                        if wanted is not None and not wanted[number] and seen.is_disposable:
                            continue
                        yield from decode(make_packet(payload, number))
                yield from decode(None)


def open_video(data: bytes, limits: DecodeLimits | None = None) -> Video:
    """Index a clip without decoding it. The clip's time-out starts here."""
    limits = limits or DecodeLimits()
    deadline = limits.start()
    return Video(data, index_media(data, limits, deadline), limits, deadline)


def segments(track: Track, wanted: Ints) -> list[tuple[int, int]]:
    """Return the spans of packets to decode: for each wanted one, from its sync sample on; touching spans are merged.

    A frame displayed before its own sync sample (a leading picture of an open group) also needs the preceding group.
    """
    syncs = np.flatnonzero(track.sync)
    spans: list[tuple[int, int]] = []
    for number in wanted.tolist():
        place = int(np.searchsorted(syncs, number, side="right")) - 1
        while place > 0 and track.times_s[number] < track.times_s[syncs[place]]:
            place -= 1
        start = int(syncs[place]) if place >= 0 else 0
        if spans and start <= spans[-1][1]:
            spans[-1] = (min(start, spans[-1][0]), max(number + 1, spans[-1][1]))
        else:
            spans.append((start, number + 1))
    return spans


class Seen(NamedTuple):
    """Properties of an H.264 packet found without decoding; all False if its units cannot be separated."""

    is_disposable: bool = False  # no other picture refers to this one (nal_ref_idc is 0)
    is_fresh_start: bool = False  # an IDR picture: decoding can start here without a flush
    has_parameters: bool = False


def look_into(track: Track, payload: bytes | memoryview) -> Seen:
    """Inspect the H.264 units of a packet; one with too many is decoded whole, and its decoder is not reused."""
    position, size = 0, track.nal_length_size
    slices: list[int] = []
    has_parameters = False
    units = 0
    while size and position + size < len(payload):
        if (units := units + 1) > _MAX_UNITS:
            return Seen(has_parameters=True)
        header = payload[position + size]
        if 1 <= header & 31 <= 5:
            slices.append(header)
        has_parameters = has_parameters or header & 31 in (7, 8, 13, 15)
        position += size + int.from_bytes(payload[position : position + size], "big")
    if not slices:
        return Seen(has_parameters=has_parameters)
    return Seen(not any(header >> 5 & 3 for header in slices), slices[0] & 31 == 5, has_parameters)


def _number_frames(track: Track, frames: Iterator[Any]) -> None:
    """Count the decoded frames of a track without presentation times, and space them evenly."""
    count = sum(1 for _ in frames)
    if count == 0:
        raise SampleError(Cause.NO_VIDEO, "no frame can be decoded")
    track.times_s = np.arange(count) / track.frames_per_second
    track.shown = np.ones(count, np.bool_)


def _rgb(reformatter: VideoReformatter, frame: Any) -> Pixels:
    """Convert one frame to 8-bit RGB; return a view of the converted buffer without its padding."""
    plane: Any = reformatter.reformat(frame, format="rgb24", threads=1).planes[0]
    rows: Pixels = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : plane.width * 3].reshape(plane.height, plane.width, 3)
