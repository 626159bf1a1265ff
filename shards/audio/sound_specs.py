"""Settings of log-mel spectrograms: the three conventions that published weights were trained with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

AST_BLIND_FILTERS = 1  # one of AST's 128 filters (the fourth) is between two bins; its weights were trained so


class SpecAugment(BaseModel):
    """Masks of frequency bands and time intervals, each of random width up to the given one (Park et al. 2019)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frequency_masks: int = Field(default=1, ge=0)
    """Number of masked frequency bands."""
    frequency_width: int = Field(default=48, ge=0)
    """Largest width of a masked band, in mel filters."""
    time_masks: int = Field(default=1, ge=0)
    """Number of masked time intervals."""
    time_width: int = Field(default=192, ge=0)
    """Largest width of a masked interval, in spectrogram frames."""


_MOST_MELS = 512  # filters and Fourier transforms of any size would be compared before they are refused


class _SoundSpec(BaseModel, ABC):
    """Settings common to all conventions; audio is normalised as (x - mean) / (deviations * std)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rate_hz: int = Field(default=16000, gt=0, le=768_000)
    """Sampling rate in hertz to which audio is resampled."""
    mels: int = Field(default=128, ge=1, le=_MOST_MELS)
    """Number of mel filters, the height of a spectrogram."""
    frames: int | None = Field(default=None, ge=1)
    """Number of spectrogram frames to which the sound is padded or cut at its end; null keeps the sound's own
    number."""
    mean: float = 0.0
    """Mean that is subtracted from the spectrogram."""
    std: float = Field(default=1.0, gt=0)
    """Standard deviation of the spectrogram, by which it is divided."""
    deviations: float = Field(default=1.0, gt=0)
    """Number of standard deviations that are 1 in the normalised spectrogram; AST was trained with 2."""
    spec_augment: SpecAugment | None = None
    """Random masks of frequencies and times, in training only; null for none."""

    @property
    def fill(self) -> float:
        """Level, before normalisation, that padding and SpecAugment write."""
        return self.mean

    @abstractmethod
    def frame_count(self, samples: int) -> int:
        """Return the number of frames, before padding, of a sound with this many samples."""


class KaldiFbank(_SoundSpec):
    """AST's convention: Kaldi fbank of the mean-free sound, natural logarithm, AudioSet's statistics, two deviations.

    Padding and SpecAugment write 0 before normalisation, which becomes 0.467: a loud value, but the one that AST and
    models derived from it were trained with. CAV-MAE has mean -5.081, std 4.4849 and one deviation.
    """

    kind: Literal["kaldi_fbank"] = "kaldi_fbank"
    frame_ms: float = Field(default=25.0, gt=0, le=1000)
    """Length of an analysis frame in milliseconds."""
    shift_ms: float = Field(default=10.0, gt=0, le=1000)
    """Milliseconds from the start of one analysis frame to the next."""
    frames: int | None = Field(default=1024, ge=1)
    mean: float = -4.2677393
    std: float = Field(default=4.5689974, gt=0)
    deviations: float = Field(default=2.0, gt=0)

    @property
    def fill(self) -> float:
        return 0.0

    def frame_count(self, samples: int) -> int:
        length, shift = frame_length(self.rate_hz, self.frame_ms), frame_length(self.rate_hz, self.shift_ms)
        return 1 + max(samples - length, 0) // shift

    @model_validator(mode="after")
    def _no_blind_filters(self) -> KaldiFbank:
        fft_size = 2 ** (frame_length(self.rate_hz, self.frame_ms) - 1).bit_length()
        blind = blind_filters(kaldi_edges_hz(self.rate_hz, self.mels), self.rate_hz, fft_size)
        if len(blind) > AST_BLIND_FILTERS:
            raise ValueError(
                f"{len(blind)} of {self.mels} mel filters cover no frequency bin (the first: {blind[0]}) with frames "
                f"of {self.frame_ms} ms at {self.rate_hz} Hz; use fewer mels or a longer frame_ms"
            )
        return self


class _StftMel(_SoundSpec):
    """MelSpectrogram's conventions: centred frames, reflected ends, periodic Hann window, power, triangles in hertz.

    Padding and SpecAugment write the mean, which is 0 after normalisation.
    """

    fft_size: int = Field(default=1024, ge=2, le=1 << 16)
    """Number of samples of the Fourier transform, at least `window_samples`."""
    window_samples: int = Field(default=400, ge=1)
    """Number of samples of the analysis window."""
    hop_samples: int = Field(default=160, ge=1)
    """Number of samples from one analysis window to the next."""
    low_hz: float = Field(default=0.0, ge=0)
    """Lowest frequency of the mel filters, in hertz."""
    high_hz: float | None = Field(default=None, gt=0)
    """Highest frequency of the mel filters, in hertz; null is half the sampling rate."""
    scale: Literal["htk", "slaney"] = "htk"
    """Formula of the mel scale: that of HTK, or Slaney's, which also normalises the filters by their width."""
    logarithm: Literal["decibel", "natural"] = "decibel"
    """Logarithm of the power: in decibels, or natural."""
    floor: float = Field(default=1e-10, gt=0)
    """Smallest power before the logarithm, which keeps silence finite."""
    range_db: float | None = Field(default=80.0, gt=0)
    """With `logarithm: decibel`, number of decibels below the sound's own peak at which levels are cut off; null keeps
    them all."""
    drop_last: bool = False
    """Drop the last frame, so that N samples give N / `hop_samples` frames instead of one more."""

    def frame_count(self, samples: int) -> int:
        return 1 + max(samples, self.fft_size) // self.hop_samples - int(self.drop_last)

    @model_validator(mode="after")
    def _no_blind_filters(self) -> _StftMel:
        if self.window_samples > self.fft_size:
            raise ValueError(f"window_samples {self.window_samples} is longer than fft_size {self.fft_size}")
        blind = self._blind(self.mels, self.fft_size)
        if not blind:
            return self
        enough = next((size for size in (2**power for power in range(1, 17)) if not self._blind(self.mels, size)), None)
        fewer = next((mels for mels in range(self.mels - 1, 0, -1) if not self._blind(mels, self.fft_size)), None)
        fixes = [f"fft_size={enough}"] * (enough is not None) + [f"mels={fewer}"] * (fewer is not None)
        raise ValueError(
            f"{len(blind)} of {self.mels} mel filters cover no frequency bin (the first: {blind[0]}) with "
            f"fft_size={self.fft_size} at {self.rate_hz} Hz; use {' or '.join(fixes) or 'a wider band'}"
        )

    def _blind(self, mels: int, fft_size: int) -> list[int]:
        high_hz = self.high_hz or self.rate_hz / 2
        return blind_filters(stft_edges_hz(self.low_hz, high_hz, mels, self.scale), self.rate_hz, fft_size)


class LogMel(_StftMel):
    """The general log-mel spectrogram, in decibels."""

    kind: Literal["log_mel"] = "log_mel"


class XdcMel(_StftMel):
    """XDC's (Alwassel et al. 2020): 40 mels, 100 frames for 2 s. The paper omits rate, window and logarithm."""

    kind: Literal["xdc_mel"] = "xdc_mel"
    mels: int = Field(default=40, ge=1, le=_MOST_MELS)
    window_samples: int = Field(default=640, ge=1)
    hop_samples: int = Field(default=320, ge=1)
    logarithm: Literal["decibel", "natural"] = "natural"
    floor: float = Field(default=1e-6, gt=0)
    drop_last: bool = True


SoundSpec = Annotated[KaldiFbank | LogMel | XdcMel, Field(discriminator="kind")]


def frame_length(rate_hz: int, milliseconds: float) -> int:
    """Return the number of samples in this time, rounded down as in Kaldi."""
    return int(rate_hz * milliseconds * 0.001)


def kaldi_edges_hz(rate_hz: int, mels: int) -> list[float]:
    """Return the frequencies at which Kaldi's triangles start, peak and end, from 20 Hz to Nyquist."""
    low, high = 1127 * np.log1p(20 / 700), 1127 * np.log1p(rate_hz / 2 / 700)
    return [float(700 * np.expm1(edge / 1127)) for edge in np.linspace(low, high, mels + 2)]


def stft_edges_hz(low_hz: float, high_hz: float, mels: int, scale: str) -> list[float]:
    """Return the frequencies at which MelSpectrogram's triangles start, peak and end."""
    if scale == "htk":
        low, high = (2595 * np.log10(1 + hertz / 700) for hertz in (low_hz, high_hz))
        return [float(700 * (10 ** (edge / 2595) - 1)) for edge in np.linspace(low, high, mels + 2)]
    low, high = (_to_slaney(hertz) for hertz in (low_hz, high_hz))
    return [_from_slaney(float(edge)) for edge in np.linspace(low, high, mels + 2)]


def blind_filters(edges_hz: list[float], rate_hz: int, fft_size: int) -> list[int]:
    """Return the numbers of triangles without a frequency bin inside: their output is the floor for every sound."""
    bins_hz = np.arange(fft_size // 2 + 1) * (rate_hz / fft_size)
    feet = zip(edges_hz[:-2], edges_hz[2:], strict=True)
    return [number for number, (left, right) in enumerate(feet) if not ((bins_hz > left) & (bins_hz < right)).any()]


def _to_slaney(hertz: float) -> float:
    """Convert hertz to Slaney's mel scale: linear to 1 kHz, then 27 steps for each factor of 6.4."""
    return hertz * 3 / 200 if hertz < 1000 else float(15 + 27 * np.log(hertz / 1000) / np.log(6.4))


def _from_slaney(mel: float) -> float:
    return mel * 200 / 3 if mel < 15 else float(1000 * 6.4 ** ((mel - 15) / 27))
