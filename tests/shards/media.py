"""Small media files for the tests, generated in memory in any container and codec, with defects on request."""

from __future__ import annotations

import ctypes
import io
import platform
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Samples = npt.NDArray[np.float32]

REPRODUCIBLE = {"x264-params": "cpu-independent=1"}  # by default, x264 output differs from call to call
# What `asm` can limit x264 to: plain C, or the features of every x86-64 processor.
X264_INSTRUCTIONS = ("0", "sse2") if platform.machine() in ("x86_64", "AMD64") else ("0",)


def moving_picture(frames: int = 30, width: int = 96, height: int = 64, seed: int = 0) -> Pixels:
    """Textured frames that all differ: a drifting pattern with a moving bright square; shape THWC."""
    rng = np.random.default_rng(seed)
    texture = rng.integers(0, 120, (height, width, 3), dtype=np.uint8)
    rows, columns = np.mgrid[:height, :width]
    out = np.empty((frames, height, width, 3), np.uint8)
    for number in range(frames):
        stripes = ((columns + rows + 3 * number) % 64)[..., None].astype(np.uint8)
        picture = np.roll(texture, number, axis=1) // 2 + stripes
        left = (5 * number) % max(width - 16, 1)
        picture[height // 4 : height // 2, left : left + 16] = (250, 40 + 3 * (number % 60), 20)
        out[number] = picture
    return out


def tone(seconds: float, rate: int = 44100, frequency: float = 440.0) -> Samples:
    """A sine wave."""
    return (0.3 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encode(
    frames_THWC: Pixels,
    sound_N: Samples | None = None,
    *,
    container: str = "mp4",
    codec: str = "libx264",
    fps: int = 25,
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    muxer_options: dict[str, str] | None = None,
    ticks: Sequence[int] | None = None,
    sound_rate: int = 44100,
    sound_codec: str = "aac",
    sound_start_s: float = 0.0,
    sound_options: dict[str, str] | None = None,
) -> bytes:
    """Encode frames and sound; `ticks` are the times of the frames in milliseconds."""
    with tempfile.NamedTemporaryFile() as out, av.open(out.name, "w", container, options=muxer_options or {}) as file:
        video = file.add_stream(codec, rate=fps)
        video.height, video.width = frames_THWC.shape[1:3]
        video.pix_fmt = pixel_format
        video.options = {**(REPRODUCIBLE if codec == "libx264" else {}), **(options or {})}
        video.codec_context.thread_count = 1
        if ticks is not None:
            video.codec_context.time_base = Fraction(1, 1000)
        audio = file.add_stream(sound_codec, rate=sound_rate, layout="mono") if sound_N is not None else None
        if audio is not None:
            audio.options = sound_options or {}
        for number, pixels in enumerate(frames_THWC):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts = number if ticks is None else ticks[number]
            frame.time_base = Fraction(1, fps) if ticks is None else Fraction(1, 1000)
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        if audio is not None and sound_N is not None:
            frame = av.AudioFrame.from_ndarray(sound_N[None, :], format="fltp", layout="mono")
            frame.sample_rate, frame.time_base = sound_rate, Fraction(1, sound_rate)
            frame.pts = round(sound_start_s * sound_rate)
            file.mux(audio.encode(frame))
            file.mux(audio.encode(None))
        file.close()
        return Path(out.name).read_bytes()


@contextmanager
def plain_ffmpeg() -> Iterator[None]:
    """Disable FFmpeg's vector instructions, as on a processor without them."""
    loaded = (line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines())
    library = ctypes.CDLL(next(path for path in loaded if Path(path).name.startswith("libavutil")))
    library.av_force_cpu_flags(0)
    try:
        yield
    finally:
        library.av_force_cpu_flags(-1)


def clip(frames: int = 30, seed: int = 0, sound: bool = True) -> bytes:
    """An ordinary small mp4."""
    pictures = moving_picture(frames, seed=seed)
    return encode(pictures, tone(frames / 25) if sound else None, options={"preset": "ultrafast"})


def full_decode(data: bytes) -> Pixels:
    """The reference: a full decode by libavformat, without skipping; shape THWC."""
    with av.open(io.BytesIO(data)) as file:
        file.streams.video[0].codec_context.thread_count = 1
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def full_times(data: bytes) -> npt.NDArray[np.float64]:
    """Presentation times by libavformat, the first frame at zero."""
    with av.open(io.BytesIO(data)) as file:
        times = np.array([float(frame.time) for frame in file.decode(video=0)])
    return times - times[0]


def full_sound(data: bytes) -> tuple[Samples, float, int]:
    """The whole track decoded by libavformat, channels averaged: samples, start on the file's clock, rate."""
    with av.open(io.BytesIO(data)) as file:
        frames = list(file.decode(audio=0))
    mono = np.concatenate([frame.to_ndarray() for frame in frames], axis=1).mean(axis=0)
    return mono, float(frames[0].time), frames[0].sample_rate


def rotated(data: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """Write a display matrix (a, b, c, d as integers) into the first track header of an mp4."""
    at = data.index(b"tkhd") + 4
    at += 52 if data[at] == 1 else 40
    one = 0x10000
    values = (matrix[0] * one, matrix[1] * one, 0, matrix[2] * one, matrix[3] * one, 0, 0, 0, 0x40000000)
    return data[:at] + struct.pack(">9i", *values) + data[at + 36 :]
