"""Encode clips: video with the training preset, its sound as AAC, and lossless clips from volumes.

Choice of the preset. A loader takes a few frames out of a clip, and the encoder determines how much must be decoded to
reach them. Measured with one thread on three textured scenes of 10 s at 340x256 and 30 fps (CPU time for 8 frames,
decoding from the nearest sync sample and skipping non-reference pictures), relative to x264's defaults:

    encoding                    8 frames of 10 s   8 frames of 2 s   bytes               PSNR, dB
    GOP 250, CRF 23             76 ms              31 ms             1                   0
    GOP 16, fastdecode, CRF 25  x4.2               x2.0              x1.57, 1.55, 1.30   -1.1, -0.9, -0.4
    GOP 12, fastdecode, CRF 26  x4.5               x2.1              x1.60, 1.57, 1.23   -1.9, -1.2, -0.5
    GOP 12, fastdecode, CRF 23  x4.2               x1.9              x2.2 (two scenes)   -0.3, -0.2
    GOP 8, no B, fastdecode     x5.1               x2.1              x2.7, 2.4           -0.4, -0.5

Over a whole clip, most of the gain comes from the short group of pictures; `tune fastdecode` (no arithmetic coding, no
deblocking) contributes the rest, and x1.4 by itself. Both need more bytes at the same quality, so CRF 25 gives up some
quality: GOP 16 is the row that stays below 1.6 times the bytes at the smallest loss. With this package's reader, and
from sources that had been encoded once before, the preset reads x4.4 and x2.6 faster at x1.56, x1.51 and x1.28 the
bytes. The figures come from a shared machine and vary by a tenth; still scenes need more bytes, grainy ones fewer.

The same frames produce the same H.264 bytes on every processor. By default, x264 computes its macroblock tree with
approximate instructions of the processor, and with AVX-512 its bytes differ from one call to the next. Therefore its
exact functions (`cpu-independent`) are enabled, as are those of swscale for the conversion to 4:2:0. That costs x1.04
the CPU time of encoding and no bytes (x0.998 to x1.000; four clips of 150 frames, AMD EPYC with AVX-512, 2026-11-28).

Sound is encoded on the clip's own clock: silence is inserted before sound that starts late, and sound that starts
early is cut. The AAC encoder computes in floating point, so the same sound produces the same bytes only on the same
kind of processor.
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
from trichord.shards.building.source_frames import Clock, MediaSource, Part, part_frames, read_clock, thinned
from trichord.shards.decoding.track import DecodeLimits

# Shapes: volume_DHW (slices, height, width), frame_HWC.

_LIMITED_RANGE, _FULL_RANGE = 1, 2
_FASTSTART = {"movflags": "+faststart", "fflags": "+bitexact"}  # omit the version from the file: same input, same bytes
# One thread, because clips are encoded in parallel and the bytes must not depend on cores or kind of processor.
X264_REPRODUCIBLE = {"threads": "1", "x264-params": "cpu-independent=1"}
SCALING_REPRODUCIBLE = int(Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT)


class Preset(BaseModel):
    """Encoding settings; frames are never enlarged."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    short_side: int | None = Field(default=256, ge=16)
    """Length in pixels to which the short side is reduced; null keeps the size of the source."""
    max_fps: float | None = Field(default=30.0, gt=0)
    """Largest frame rate, above which frames are left out; null keeps the rate of the source."""
    gop: int = Field(default=16, ge=1)
    """Number of frames of a group of pictures, of which only the first can be decoded by itself; fewer make reading a
    few frames faster and files larger."""
    crf: int = Field(default=25, ge=0, le=51)
    """Quality of x264, from 0 (lossless) to 51 (worst)."""
    speed: str = "medium"
    """Name of x264's speed preset, such as `fast` or `medium`."""

    def options(self) -> dict[str, str]:
        """Return the options for x264."""
        return {
            **X264_REPRODUCIBLE,
            "preset": self.speed,
            "tune": "fastdecode",
            "crf": str(self.crf),
            "g": str(self.gop),
            "flags": "+cgop",
        }


def encode(source: MediaSource, preset: Preset, part: Part) -> bytes:
    """Re-encode a clip, or a part of it, to mp4 with its sound.

    The clip starts with the first frame at or after the start of the part. Presentation times are kept, so a variable
    frame rate stays variable; sound and picture are shifted by the same amount; rotation, aspect ratio and range are
    applied to the pixels. The frames of a source without times are spaced evenly.
    """
    with tempfile.TemporaryDirectory() as folder:  # moving the index to the front needs a real file
        path = Path(folder, "clip.mp4")
        with av.open(str(path), "w", format="mp4", options=_FASTSTART) as target:
            video_packets, origin, end = _encode_video(source, target, preset, part)
            packets = video_packets + encode_sound(source, target, origin, end)
            for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
                target.mux(packet)
        return path.read_bytes()


def lossless_gray(volume_DHW: NDArray[np.uint8], slices_per_second: int) -> bytes:
    """Encode slices to H.264 such that the decoded grey and RGB values are exactly those of the volume."""
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
    source: MediaSource, target: Any, preset: Preset, part: Part
) -> tuple[list[Any], Fraction, Fraction | None]:
    """Return the packets, and the source times of the first kept frame and of the end of the sound."""
    clock = read_clock(source)
    shape = _Shape(preset, clock.aspect)
    stream: Any = None
    packets: list[Any] = []
    origin: Fraction | None = None
    for time, frame in thinned(part_frames(source, part, clock), clock.rate, preset.max_fps):
        if origin is None:
            origin = time
            stream = _add_video(target, frame, clock, preset, shape)
        picture = shape.apply(frame)
        picture.pts = round((time - origin) / clock.tick)
        picture.time_base = clock.tick
        packets += stream.encode(picture)
    if origin is None:
        raise SampleError(Cause.NO_VIDEO, f"no frame can be decoded from {part.start:g} s on")
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
    """Conversion of decoded frames to upright, square pixels, the preset's size and 8-bit 4:2:0."""

    def __init__(self, preset: Preset, aspect: Fraction) -> None:
        self._short_side, self._aspect = preset.short_side, aspect
        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None

    def size_of(self, frame: Any) -> tuple[int, int]:
        """Return even width and height after rotation; determined by the first frame, never larger than it."""
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
        picture.pict_type = 0  # otherwise the encoder would reuse the source's picture types
        return picture


# Shapes: samples_CN (channels, samples), float32 in [-1, 1].

_RATES = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
BIT_RATE_PER_CHANNEL = 64_000
# Without noise substitution: decoders generate that noise at random, so a window would differ from a full decode.
_OPTIONS = {"threads": "1", "aac_pns": "0"}
_JITTER_S = Fraction(5, 1000)  # containers with times in milliseconds deviate by less; a larger deviation is a gap
_MAX_FAULT_FRACTION = 0.05


def encode_sound(source: MediaSource, target: Any, origin: Fraction, end: Fraction | None) -> list[Any]:
    """Encode the first sound track between two source times; return no packets if there is no track.

    Mono, stereo and the common rates from 16 to 48 kHz are kept; more channels are mixed to stereo, and other rates are
    resampled to the nearest of these.
    """
    with source.open() as container:
        track = source.stream(container, "audio")
        if track is None:
            return []
        context = track.codec_context
        rate = min(_RATES, key=lambda known: (abs(known - context.sample_rate), known))
        layout = "mono" if context.channels == 1 else "stereo"
        stream: Any = target.add_stream("aac", rate=rate, options=_OPTIONS, layout=layout)
        stream.codec_context.format = "fltp"
        stream.bit_rate = BIT_RATE_PER_CHANNEL * len(stream.codec_context.layout.channels)
        packets: list[Any] = []
        position = 0
        for samples_CN in _continuous(
            _resampled(source, container, track, layout, rate), origin, end, rate, source.limits
        ):
            source.deadline.check()
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples_CN), "fltp", layout)
            frame.sample_rate = rate
            frame.pts, frame.time_base = position, Fraction(1, rate)
            position += samples_CN.shape[1]
            packets += stream.encode(frame)
        if position == 0:  # without any frame the stream would have no header
            silence_CN = np.zeros((len(stream.codec_context.layout.channels), 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(silence_CN, "fltp", layout)
            frame.sample_rate = rate
            frame.pts, frame.time_base = 0, Fraction(1, rate)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        return packets


def _resampled(
    source: MediaSource, container: Any, stream: Any, layout: str, rate: int
) -> Iterator[tuple[Fraction, NDArray[np.float32]]]:
    """Decode the track; yield pieces with the time of their first sample."""
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
    packets, faults = 0, 0
    for packet in source.packets(container, stream):
        packets += 1
        try:
            frames = packet.decode()
        except av.FFmpegError:
            faults += 1
            continue
        for frame in frames:
            yield from _pieces(resampler.resample(frame))
    yield from _pieces(resampler.resample(None))
    if faults > max(1, _MAX_FAULT_FRACTION * packets):
        name = stream.codec_context.name
        raise SampleError(Cause.AUDIO, f"{faults} of {packets} audio packets cannot be decoded ({name})")


def _pieces(frames: list[Any]) -> Iterator[tuple[Fraction, NDArray[np.float32]]]:
    for frame in frames:
        if frame.pts is not None:
            yield Fraction(frame.pts * frame.time_base), frame.to_ndarray()


def _continuous(
    pieces: Iterator[tuple[Fraction, NDArray[np.float32]]],
    origin: Fraction,
    end: Fraction | None,
    rate: int,
    limits: DecodeLimits,
) -> Iterator[NDArray[np.float32]]:
    """Join pieces to a signal that starts at `origin`: gaps become silence, overlaps and samples outside are cut."""
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
        limits.check_seconds(place / rate)
        while place > position:  # in pieces, as a forged time may lie hours ahead
            silence = min(place - position, rate)
            yield np.zeros((samples_CN.shape[0], silence), np.float32)
            position += silence
        yield samples_CN
        position += samples_CN.shape[1]
