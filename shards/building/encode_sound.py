"""Encode a clip's sound to AAC on the clip's own clock: what is late is preceded by silence, what is early is cut.

The encoder computes in floating point: the same sound gives the same bytes on one kind of processor.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from trichord.core.errors import Cause, SampleError

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
