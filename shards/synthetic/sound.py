"""Synthesise the audio of a planned clip: timbre encodes the shape, base pitch the size, the contour the poses.

The simulated microphone is at the right edge: higher positions give a higher pitch, positions further right a louder
sound, larger objects a lower and louder one, rotation a glide in pitch. So a reversed action has a reversed contour,
and audio and video describe the same events.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from trichord.core.seeds import generator
from trichord.shards.synthetic.motion import poses
from trichord.shards.synthetic.plan import ClipPlan, Event
from trichord.shards.synthetic.vocabulary import SIZES

# Shapes: N audio samples, M points at which the contour is computed.
Samples: TypeAlias = npt.NDArray[np.float32]
Array: TypeAlias = npt.NDArray[np.float64]

SEMITONES_PER_HEIGHT = 32.0
DECIBELS_PER_WIDTH = 40.0
SEMITONES_PER_TURN = 12.0
_LEVEL = 0.16  # root mean square of an object in the middle of its path
_CONTOUR_HZ = 250.0  # coarse enough that jumps become short glides instead of clicks
_ATTACK_S = 0.02

# Partials of each shape: multiples of the base frequency and their strengths.
TIMBRES: dict[str, tuple[tuple[float, float], ...]] = {
    "circle": ((1, 1.0),),
    "square": tuple((n, 1 / n) for n in (1, 3, 5, 7, 9)),
    "triangle": ((1, 1.0), (2, 0.9), (3, 0.15)),
    "star": tuple((n, 1 / n**0.7) for n in range(1, 11)),
    "ring": ((1, 0.7), (2.76, 1.0), (5.4, 0.6)),
    "cross": ((1, 1.0), (2, 0.8), (4, 0.8), (8, 0.6)),
    "heart": ((1, 1.0), (3, 0.8), (4, 0.5)),
    "crescent": ((1, 0.25), (4, 0.6), (5, 1.0), (6, 0.7)),
}


def play(plan: ClipPlan) -> Samples | None:
    """Return the clip's audio as samples_N, or None for a clip without an audio track."""
    if plan.silent:
        return None
    rate = plan.group.sample_rate
    samples_N = _noise(plan, round(plan.duration_s * rate))
    for event in plan.events:
        first, voice_N = _voice(event, rate)
        for delay_s, gain in ((0.0, 1.0), (plan.group.echo_s, plan.group.echo_gain)):
            start = first + round(delay_s * rate)
            target = samples_N[start : start + len(voice_N)]
            target += np.float32(gain) * voice_N[: len(target)]
    return np.clip(samples_N, -1.0, 1.0)


def contour(event: Event, seconds_M: Array) -> tuple[Array, Array]:
    """Return the pitch (in Hz) and the loudness (as a factor) of the event at these times."""
    path = poses(event.action, event.course, (seconds_M - event.start_s) / (event.end_s - event.start_s))
    turns_M = path.angle_N / (2 * math.pi)
    glide_M = np.mod(turns_M + 0.5, 1.0) - 0.5
    semitones_M = -SEMITONES_PER_HEIGHT * path.y_N + SEMITONES_PER_TURN * glide_M - 12 * np.log2(path.scale_N)
    hertz_M = SIZES[event.thing.size].pitch_hz * 2 ** (semitones_M / 12)
    loudness_M = 10 ** (DECIBELS_PER_WIDTH * path.x_N / 20) * path.scale_N * path.opacity_N
    return hertz_M, loudness_M


def _voice(event: Event, rate: int) -> tuple[int, Samples]:
    """Return the index of the first sample of an event, and its samples."""
    first, stop = round(event.start_s * rate), round(event.end_s * rate)
    seconds_N = np.arange(first, stop) / rate
    seconds_M = np.linspace(event.start_s, event.end_s, max(2, round((event.end_s - event.start_s) * _CONTOUR_HZ)))
    hertz_M, loudness_M = contour(event, seconds_M)
    hertz_N = np.interp(seconds_N, seconds_M, hertz_M)
    turns_N = np.cumsum(hertz_N) / rate
    partials = TIMBRES[event.thing.shape]
    tone_N = np.zeros(len(turns_N), np.float32)
    for multiple, strength in partials:
        # A partial fades out below half the sample rate, above which it would alias.
        audible_N = np.clip((0.45 * rate - multiple * hertz_N) / (0.05 * rate), 0, 1).astype(np.float32)
        tone_N += np.float32(strength) * audible_N * np.sin((2 * math.pi * (multiple * turns_N % 1)).astype(np.float32))
    power = sum(strength**2 for _, strength in partials) / 2
    edge_N = np.minimum(seconds_N - event.start_s, event.end_s - seconds_N) / _ATTACK_S
    shape_N = np.interp(seconds_N, seconds_M, loudness_M) * np.clip(edge_N, 0, 1) * _LEVEL / math.sqrt(power)
    # Loud passages are compressed, not clipped: two objects at the microphone stay below full scale.
    bent_N: Samples = np.float32(0.6) * np.tanh(tone_N * shape_N.astype(np.float32))
    return first, bent_N


def _noise(plan: ClipPlan, length: int) -> Samples:
    """Return the background noise of the clip's group, between white and pink."""
    padded = -(-length // 4096) * 4096  # the FFT is slow for lengths with large prime factors
    white_N = generator(plan.seed, "noise", plan.number).standard_normal(padded, np.float32)
    spectrum = np.fft.rfft(white_N)
    weights = np.arange(1, len(spectrum) + 1, dtype=np.float64) ** (-plan.group.noise_slope / 2)
    coloured_N = np.fft.irfft(spectrum * weights, padded)[:length]
    level = 10 ** (plan.group.noise_db / 20)
    noise_N: Samples = (coloured_N * (level / coloured_N.std())).astype(np.float32)
    return noise_N
