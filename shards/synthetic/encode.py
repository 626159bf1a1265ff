"""Encode frames and samples as a video file: H.264 with AAC in mp4, or MPEG-4 with MP3 in avi as in UCF101."""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from trichord.shards.building.encode import SCALING_REPRODUCIBLE, X264_REPRODUCIBLE

# Shapes: T frames, H x W pixels, C = 3 colours; N audio samples.


@dataclass(frozen=True)
class Codecs:
    """The codecs of a container, and their options."""

    container: str
    video: str
    video_options: tuple[tuple[str, str], ...]
    audio: str
    pixel_format: str = "yuv420p"


CODECS = {
    ".mp4": Codecs("mp4", "libx264", (*X264_REPRODUCIBLE.items(), ("preset", "veryfast"), ("crf", "21")), "aac"),
    ".avi": Codecs("avi", "mpeg4", (("flags", "+qscale"), ("global_quality", "354"), ("threads", "1")), "libmp3lame"),
}


def encode(
    frames_THWC: npt.NDArray[np.uint8],
    samples_N: npt.NDArray[np.float32] | None,
    fps: int,
    sample_rate: int,
    suffix: str = ".mp4",
) -> bytes:
    """Return the bytes of a video file; the suffix chooses the codecs, and without samples there is no audio track.

    The same frames give the same H.264 packets on every processor; MPEG-4 and audio are encoded with floating-point or
    processor-specific arithmetic, so they are reproducible only on the same kind of processor.
    """
    codecs = CODECS[suffix]
    buffer = io.BytesIO()
    reformatter = VideoReformatter()
    with av.open(buffer, "w", format=codecs.container) as container:
        video = cast(av.VideoStream, container.add_stream(codecs.video, rate=fps, options=dict(codecs.video_options)))
        video.height, video.width = frames_THWC.shape[1:3]
        video.pix_fmt = codecs.pixel_format
        video.time_base = Fraction(1, fps)
        audio: av.AudioStream | None = None
        if samples_N is not None:
            audio = cast(av.AudioStream, container.add_stream(codecs.audio, rate=sample_rate, layout="mono"))
        for index, frame_HWC in enumerate(frames_THWC):
            frame = reformatter.reformat(
                av.VideoFrame.from_ndarray(frame_HWC, format="rgb24"),
                format=codecs.pixel_format,
                interpolation=SCALING_REPRODUCIBLE,
                threads=1,
            )
            frame.pts = index
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None and samples_N is not None:
            sound = av.AudioFrame.from_ndarray(samples_N[None], format="fltp", layout="mono")
            sound.sample_rate, sound.pts = sample_rate, 0
            container.mux(audio.encode(sound))
            container.mux(audio.encode(None))
    return buffer.getvalue()
