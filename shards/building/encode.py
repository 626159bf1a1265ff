"""Encode clips: the preset made for training, and lossless clips from volumes.

Why the preset is what it is. A loader takes a few frames out of a clip, and what it must decode to reach them is set by
the encoder. Measured with one thread on three textured scenes of 10 s at 340x256 and 30 fps (CPU time for 8 frames,
from the nearest sync sample on and without the pictures that nothing refers to), against x264's defaults:

    encoding                    8 frames of 10 s   8 frames of 2 s   bytes               PSNR, dB
    GOP 250, CRF 23             76 ms              31 ms             1                   0
    GOP 16, fastdecode, CRF 25  x4.2               x2.0              x1.57, 1.55, 1.30   -1.1, -0.9, -0.4
    GOP 12, fastdecode, CRF 26  x4.5               x2.1              x1.60, 1.57, 1.23   -1.9, -1.2, -0.5
    GOP 12, fastdecode, CRF 23  x4.2               x1.9              x2.2 (two scenes)   -0.3, -0.2
    GOP 8, no B, fastdecode     x5.1               x2.1              x2.7, 2.4           -0.4, -0.5

Most of the gain over a whole clip is the short group of pictures; `tune fastdecode` (no arithmetic coding, no
deblocking) gives the rest, and x1.4 by itself. Both are paid for with bytes at the same quality, so CRF 25 gives some
quality back: GOP 16 is the row that keeps the bytes under 1.6 times at the smallest loss. Through our own reader, and
from sources that were encoded once before, the preset reads x4.4 and x2.6 faster at x1.56, x1.51 and x1.28 the bytes.
Figures from a shared machine move by a tenth; still scenes pay more bytes, grainy ones fewer.

The same frames give the same H.264 bytes on every processor. Left to itself, x264 weighs its macroblock tree with
approximate instructions of the processor at hand, and with AVX-512 gives other bytes from one call to the next; so its
exact functions are asked for (`cpu-independent`), and swscale's for the conversion to 4:2:0. That costs x1.04 the CPU
time of encoding and no bytes (x0.998 to x1.000; four clips of 150 frames, AMD EPYC with AVX-512, 2026-11-28).

Encode a clip's sound to AAC on the clip's own clock: what is late is preceded by silence, what is early is cut.

The encoder computes in floating point: the same sound gives the same bytes on one kind of processor.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from trichord.core.errors import Cause, SampleError
from trichord.shards.building.source_frames import Clock, Part, part_frames, read_clock, thinned

# Shapes: volume_DHW (slices, height, width), frame_HWC.

_LIMITED_RANGE, _FULL_RANGE = 1, 2
_FASTSTART = {"movflags": "+faststart", "fflags": "+bitexact"}  # no version in the file: same input, same bytes
# One thread, because clips run in parallel and the bytes must not depend on cores; no approximations of one processor.
X264_REPRODUCIBLE = {"threads": "1", "x264-params": "cpu-independent=1"}
SCALING_REPRODUCIBLE = int(Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT)


class Preset(BaseModel):
    """How to encode; `None` leaves size or rate as they are. Nothing is ever enlarged."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    short_side: int | None = Field(default=256, ge=16)
    max_fps: float | None = Field(default=30.0, gt=0)
    gop: int = Field(default=16, ge=1)
    crf: int = Field(default=25, ge=0, le=51)
    speed: str = "medium"

    def options(self) -> dict[str, str]:
        """Return x264's options."""
        return {
            **X264_REPRODUCIBLE,
            "preset": self.speed,
            "tune": "fastdecode",
            "crf": str(self.crf),
            "g": str(self.gop),
            "flags": "+cgop",
        }


def encode(data: bytes, preset: Preset, part: Part, has_times: bool) -> bytes:
    """Re-encode a clip, or a part of it, to mp4 with its sound.

    The clip begins with the first frame at or after the start of the part. Presentation times stay what they are, so a
    variable frame rate stays one; sound and picture are shifted by the same amount; rotation, aspect ratio and
    range are applied to the pixels. `has_times` False means that the container tells decode order only (AVI with
    B-frames): frames are then spaced evenly.
    """
    with tempfile.TemporaryDirectory() as folder:  # moving the index to the front needs a real file
        path = Path(folder, "clip.mp4")
        with av.open(str(path), "w", format="mp4", options=_FASTSTART) as target:
            video_packets, origin, end = _encode_video(data, target, preset, part, has_times)
            packets = video_packets + encode_sound(data, target, origin, end)
            for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
                target.mux(packet)
        return path.read_bytes()


def lossless_gray(volume_DHW: NDArray[np.uint8], slices_per_second: int) -> bytes:
    """Encode slices to H.264 whose decoded grey values, and RGB values, are exactly those of the volume."""
    output = io.BytesIO()
    with av.open(output, "w", format="mp4", options={"fflags": "+bitexact"}) as target:
        stream: Any = target.add_stream(
            "libx264", rate=slices_per_second, options={**X264_REPRODUCIBLE, "qp": "0", "g": "16"}
        )
        stream.height, stream.width = volume_DHW.shape[1:]
        stream.pix_fmt = "gray"
        stream.codec_context.color_range = _FULL_RANGE
        for slice_HW in volume_DHW:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(slice_HW), "gray")
            frame.color_range = _FULL_RANGE
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return output.getvalue()


def _encode_video(
    data: bytes, target: Any, preset: Preset, part: Part, has_times: bool
) -> tuple[list[Any], Fraction, Fraction | None]:
    """Give the packets, the source's time of the first kept frame, and the source's time at which sound must end."""
    with av.open(io.BytesIO(data)) as source:
        clock = read_clock(source, has_times)
    shape = _Shape(preset, clock.aspect)
    stream: Any = None
    packets: list[Any] = []
    origin: Fraction | None = None
    for time, frame in thinned(part_frames(data, part, clock, has_times), clock.rate, preset.max_fps):
        if origin is None:
            origin = time
            stream = _add_video(target, frame, clock, preset, shape)
        picture = shape.apply(frame)
        picture.pts = round((time - origin) / clock.tick)
        picture.time_base = clock.tick
        packets += stream.encode(picture)
    if origin is None:
        raise SampleError(Cause.NO_VIDEO, f"not one frame decodes from {part.start:g} s on")
    return packets + stream.encode(None), origin, None if part.end is None else clock.first + Fraction(part.end)


def _add_video(target: Any, frame: Any, clock: Clock, preset: Preset, shape: _Shape) -> Any:
    rate = min(clock.rate, Fraction(preset.max_fps or 240))
    stream = target.add_stream("libx264", rate=rate, options=preset.options())
    stream.width, stream.height = shape.size_of(frame)
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.time_base = stream.time_base = clock.tick
    context.color_range = _LIMITED_RANGE
    if frame.format.name.startswith(("yuv", "nv", "p0")) and not round(frame.rotation / 90) % 4:
        context.colorspace = frame.colorspace
        context.color_primaries, context.color_trc = frame.color_primaries, frame.color_trc
    return stream


class _Shape:
    """Turns decoded frames upright, to square pixels, to the preset's size and to 8-bit 4:2:0."""

    def __init__(self, preset: Preset, aspect: Fraction) -> None:
        self._short_side, self._aspect = preset.short_side, aspect
        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None

    def size_of(self, frame: Any) -> tuple[int, int]:
        """Give even width and height after turning; fixed by the first frame, never larger than that."""
        if self._size is None:
            width = frame.width * min(self._aspect, Fraction(1))
            height = frame.height / max(self._aspect, Fraction(1))
            if round(frame.rotation / 90) % 2:
                width, height = height, width
            scale = Fraction(1)
            if self._short_side is not None:
                scale = min(scale, Fraction(self._short_side) / min(width, height))
            self._size = (max(2, int(width * scale / 2) * 2), max(2, int(height * scale / 2) * 2))
        return self._size

    def apply(self, frame: Any) -> Any:
        """Convert one frame."""
        width, height = self.size_of(frame)
        turns = round(frame.rotation / 90) % 4
        if turns:
            upright_HWC = np.rot90(frame.to_ndarray(format="rgb24", interpolation=SCALING_REPRODUCIBLE), turns)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(upright_HWC), "rgb24")
        full = frame.color_range == _FULL_RANGE or frame.format.name.startswith("yuvj")
        picture = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="yuv420p",
            interpolation=SCALING_REPRODUCIBLE,
            src_color_range=_FULL_RANGE if full else _LIMITED_RANGE,
            dst_color_range=_LIMITED_RANGE,
            threads=1,
        )
        picture.pict_type = 0  # the source's picture types would be forced on the encoder
        return picture


# Shapes: samples_CN (channels, samples), float32 in [-1, 1].

_RATES = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
BIT_RATE_PER_CHANNEL = 64_000
# Without noise substitution: a decoder draws that noise anew, so that a window would not sound as in a full decode.
_OPTIONS = {"threads": "1", "aac_pns": "0"}
_JITTER_S = Fraction(5, 1000)  # containers that tell time in milliseconds are off by less; more is a gap
_FAULTS_BORNE = 0.05


def encode_sound(data: bytes, target: Any, origin: Fraction, end: Fraction | None) -> list[Any]:
    """Encode the first sound track between two moments of the source's clock; without a track there are no packets.

    Mono and stereo and the rates from 16 to 48 kHz are kept; more channels become stereo, other rates the nearest.
    """
    with av.open(io.BytesIO(data)) as source:
        if not source.streams.audio or source.streams.audio[0].codec_context is None:
            return []
        context = source.streams.audio[0].codec_context
        rate = min(_RATES, key=lambda known: (abs(known - context.sample_rate), known))
        layout = "mono" if context.channels == 1 else "stereo"
        stream: Any = target.add_stream("aac", rate=rate, options=_OPTIONS, layout=layout)
        stream.codec_context.format = "fltp"
        stream.bit_rate = BIT_RATE_PER_CHANNEL * len(stream.codec_context.layout.channels)
        packets: list[Any] = []
        position = 0
        for samples_CN in _continuous(_resampled(source, layout, rate), origin, end, rate):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples_CN), "fltp", layout)
            frame.sample_rate = rate
            frame.pts, frame.time_base = position, Fraction(1, rate)
            position += samples_CN.shape[1]
            packets += stream.encode(frame)
        if position == 0:  # an empty track would leave a stream without a header
            silence_CN = np.zeros((len(stream.codec_context.layout.channels), 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(silence_CN, "fltp", layout)
            frame.sample_rate = rate
            packets += stream.encode(frame)
        packets += stream.encode(None)
        return packets


def _resampled(source: Any, layout: str, rate: int) -> Iterator[tuple[Fraction, NDArray[np.float32]]]:
    """Decode the track; give pieces with the time of their first sample."""
    stream = source.streams.audio[0]
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
    packets, faults = 0, 0
    for packet in source.demux(stream):
        packets += 1
        try:
            frames = packet.decode()
        except av.FFmpegError:
            faults += 1
            continue
        for frame in frames:
            yield from _pieces(resampler.resample(frame))
    yield from _pieces(resampler.resample(None))
    if faults > max(1, _FAULTS_BORNE * packets):
        name = stream.codec_context.name
        raise SampleError(Cause.AUDIO, f"{faults} of {packets} packets of sound do not decode ({name})")


def _pieces(frames: list[Any]) -> Iterator[tuple[Fraction, NDArray[np.float32]]]:
    for frame in frames:
        if frame.pts is not None:
            yield Fraction(frame.pts * frame.time_base), frame.to_ndarray()


def _continuous(
    pieces: Iterator[tuple[Fraction, NDArray[np.float32]]], origin: Fraction, end: Fraction | None, rate: int
) -> Iterator[NDArray[np.float32]]:
    """Lay pieces on one line that begins at `origin`: gaps become silence, overlaps and the outside are cut."""
    position = 0
    last = None if end is None else round((end - origin) * rate)
    for time, samples_CN in pieces:
        place = round((time - origin) * rate)
        if abs(place - position) <= _JITTER_S * rate:
            place = position
        if last is not None:
            samples_CN = samples_CN[:, : max(0, last - place)]
        samples_CN = samples_CN[:, max(0, position - place) :]
        if samples_CN.shape[1] == 0:
            continue
        if place > position:
            yield np.zeros((samples_CN.shape[0], place - position), np.float32)
            position = place
        yield samples_CN
        position += samples_CN.shape[1]
