"""Decode the sound of a time window, on the clip's own clock.

Legend: C channels, N samples.
"""

from __future__ import annotations

import math
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from trichord.core.errors import Cause, SampleError
from trichord.shards.decoding.container import media_errors
from trichord.shards.decoding.decoders import audio_decoder
from trichord.shards.decoding.track import Deadline, Ints, Track, make_packet

Samples = npt.NDArray[np.float32]

# Packets to decode before the output is correct: AAC overlaps with one packet, other codecs depend on more.
WARM_UP_PACKETS = {"aac": 2, "flac": 0, "pcm_s16le": 0}
OTHER_WARM_UP_PACKETS = 12
# Output samples decoded beyond each end of the window, so that the resampling filter has settled within it.
MARGIN_SAMPLES = 64
HIGHEST_RATE = 768_000  # above the rate of any recorder; a forged rate would determine the amount of memory
MOST_SAMPLES = 1 << 26  # per window, of all channels together: 11 minutes of stereo at 48 kHz
LOUDEST = 1e4  # times full scale: a forged or damaged track can have infinite values, and one would corrupt a batch
# Packets that deviate from even spacing by no more than this are treated as evenly spaced.
ROUNDING_S = 0.0021


def decode_sound(
    data: memoryview, track: Track, start_s: float, end_s: float, rate: int, deadline: Deadline
) -> Samples:
    """Return exactly round((end - start) * rate) mono samples, with zeros where the track has no sound."""
    wanted = max(round((end_s - start_s) * rate), 0)
    native = track.sample_rate
    if not 0 < native <= HIGHEST_RATE:
        raise SampleError(Cause.AUDIO, f"the sound track declares {native} samples per second")
    lead = _lead(start_s, native, rate)
    first = round((start_s - lead / rate) * native)
    length = math.ceil((wanted + 2 * lead) * native / rate)
    if max(wanted, length) > MOST_SAMPLES:
        raise SampleError(
            Cause.TOO_LONG, f"{end_s - start_s:.0f} s of sound at {native} Hz, the limit is {MOST_SAMPLES} samples"
        )
    mono_N = _mono(data, track, first, length, deadline)
    resampled_N = mono_N if native == rate else resample(mono_N, native, rate)
    out_N = np.zeros(wanted, np.float32)
    part_N = resampled_N[lead : lead + wanted]
    out_N[: len(part_N)] = part_N
    return out_N


def _lead(start_s: float, native: int, rate: int) -> int:
    """Return the number of output samples before the window that aligns its start with the native sample grid."""
    if native == rate:
        return 0
    leads = np.arange(MARGIN_SAMPLES, MARGIN_SAMPLES + rate // math.gcd(native, rate))
    begins = (start_s - leads / rate) * native
    return int(leads[np.argmin(np.round(np.abs(begins - np.rint(begins)), 6))])


def resample(samples_N: Samples, native: int, rate: int) -> Samples:
    """Resample with FFmpeg's windowed-sinc filter; the first samples of input and output coincide."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
    frame: Any = av.AudioFrame.from_ndarray(samples_N[None, :], format="flt", layout="mono")
    frame.sample_rate = native
    parts: list[Samples] = [part.to_ndarray()[0] for part in (*resampler.resample(frame), *resampler.resample(None))]
    joined: Samples = np.concatenate([np.zeros(0, np.float32), *parts])
    return joined


def _mono(data: memoryview, track: Track, first: int, length: int, deadline: Deadline) -> Samples:
    """Decode native samples [first, first + length) on the track's clock, and average the channels."""
    window_CN: Samples = np.zeros((1, length), np.float32)
    if not track.has_times or not track.shown.any():
        return np.zeros(length, np.float32)
    starts = _packet_starts(track)
    inside = np.searchsorted(starts, [first, first + length], side="right")
    begin = max(int(inside[0]) - 1 - WARM_UP_PACKETS.get(track.codec, OTHER_WARM_UP_PACKETS), 0)
    hidden = int(starts[track.shown][0]) - first  # window samples before this one are edited out
    context = audio_decoder(track)
    try:
        with media_errors(Cause.AUDIO, track.codec):
            for number in range(begin, int(inside[1])):
                deadline.check()
                for frame in context.decode(make_packet(track.payload(data, number), number)):
                    source = number if frame.pts is None else int(frame.pts)
                    if not begin <= source <= number:
                        raise SampleError(
                            Cause.AUDIO, f"{track.codec}: packet {number} returned a frame of packet {source}"
                        )
                    window_CN = _place(frame, track, window_CN, int(starts[source]) - first, hidden)
    finally:
        if track.context is not None:
            context.flush_buffers()
    mono_N: Samples = window_CN.mean(axis=0) if len(window_CN) > 1 else window_CN[0]
    if not float(np.abs(mono_N).max(initial=0.0)) <= LOUDEST:  # also true for NaN
        raise SampleError(Cause.AUDIO, f"{track.codec}: decoded samples are NaN or exceed {LOUDEST:g} times full scale")
    return mono_N


def _packet_starts(track: Track) -> Ints:
    """Return each packet's start on the track's sample clock, undoing millisecond rounding (Matroska and others)."""
    starts = np.rint(track.times_s * track.sample_rate).astype(np.int64)
    if len(starts) < 2:
        return starts
    span = round((starts[-1] - starts[0]) / (len(starts) - 1))
    for length in (span, getattr(track.context, "frame_size", 0) or span):
        drift = starts - length * np.arange(len(starts))
        middle = int(np.median(drift))
        if np.abs(drift - middle).max() <= ROUNDING_S * track.sample_rate:
            return middle + length * np.arange(len(starts))
    return starts


def _place(frame: Any, track: Track, window_CN: Samples, start: int, hidden: int) -> Samples:
    """Write one decoded frame into the window, as far as it lies inside and is not edited out."""
    if frame.sample_rate != track.sample_rate:
        raise SampleError(Cause.AUDIO, f"decoded at {frame.sample_rate} Hz, but {track.sample_rate} Hz was declared")
    first, stop = max(start, hidden, 0), min(start + frame.samples, window_CN.shape[1])
    if stop <= first:
        return window_CN
    planes_C = _float_planes(frame)
    if len(planes_C) != len(window_CN):
        if window_CN.any():
            raise SampleError(Cause.AUDIO, f"the number of channels changes to {len(planes_C)}")
        if len(planes_C) * window_CN.shape[1] > MOST_SAMPLES:
            raise SampleError(Cause.TOO_LONG, f"{len(planes_C)} channels of {window_CN.shape[1]} samples")
        window_CN = np.zeros((len(planes_C), window_CN.shape[1]), np.float32)
    for channel, plane_N in enumerate(planes_C):
        window_CN[channel, first:stop] = plane_N[first - start : stop - start]
    return window_CN


def _float_planes(frame: Any) -> list[Samples]:
    """Return each channel as floats in [-1, 1], for any sample format of the decoder."""
    if frame.format.name == "fltp":  # AAC and most others: copied only once, into the window
        return [np.frombuffer(plane, np.float32, frame.samples) for plane in frame.planes]
    raw = frame.to_ndarray()
    if not frame.format.is_planar:
        raw = raw.reshape(-1, len(frame.layout.channels)).T
    if raw.dtype == np.uint8:
        raw = (raw.astype(np.float32) - 128.0) / 128.0
    elif np.issubdtype(raw.dtype, np.signedinteger):
        raw = raw.astype(np.float32) / (float(np.iinfo(raw.dtype).max) + 1.0)
    return list(np.asarray(raw, np.float32))
