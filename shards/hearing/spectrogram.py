"""From a clip's sound to a log-mel picture: three conventions; padding, SpecAugment and normalising in AST's order.

Sound is float mono in [-1, 1]; integers are refused (16-bit numbers would shift every log-mel value by 20.8). Pictures
are audio_TF: time first, as AST takes them. A sound shorter than one window is filled up with zeros to one window.
Legend: B sounds, N samples, T frames, F mel filters.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from trichord.core.wheels import make_importable
from trichord.shards.hearing.fbank import frame_length, log_fbank
from trichord.shards.hearing.sound_specs import KaldiFbank, LogMel, SoundSpec, SpecAugment, XdcMel


def spectrogram(spec: SoundSpec, samples_N: NDArray[np.floating], rng: np.random.Generator | None = None) -> Tensor:
    """Give the normalised audio_TF of one sound; SpecAugment is applied where `rng` is given and the spec has it.

    The order is AST's: logarithm, pad or cut, mask, normalise.
    """
    if samples_N.ndim != 1 or not np.issubdtype(samples_N.dtype, np.floating):
        raise ValueError(f"expected float mono samples in [-1, 1], found {samples_N.dtype} of shape {samples_N.shape}")
    fill = 0.0 if isinstance(spec, KaldiFbank) else spec.mean
    samples_BN = torch.from_numpy(np.array(samples_N[None], dtype=np.float32))
    audio_TF = fit_frames(log_mel(spec, samples_BN)[0], spec.frames, fill)
    if rng is not None and spec.spec_augment is not None:
        audio_TF = mask(spec.spec_augment, audio_TF, rng, fill)
    return (audio_TF - spec.mean) / (spec.std * spec.deviations)


def log_mel(spec: SoundSpec, samples_BN: Tensor) -> Tensor:
    """Give audio_BTF, not yet padded nor normalised."""
    if isinstance(spec, KaldiFbank):
        # In float64 and by numpy: torch splits a long sum among threads, of which a loader's workers have one.
        mean_B1 = samples_BN.numpy().mean(axis=-1, keepdims=True, dtype=np.float64).astype(np.float32)
        centred_BN = samples_BN - torch.from_numpy(mean_B1)
        return log_fbank(centred_BN, spec.rate_hz, spec.mels, spec.frame_ms, spec.shift_ms)
    missing = spec.fft_size - samples_BN.shape[-1]
    power_BFT: Tensor = _mel_spectrogram(spec)(functional.pad(samples_BN, (0, max(missing, 0))))
    frames = power_BFT.shape[-1] - int(spec.drop_last)
    power_BTF = power_BFT[..., :frames].transpose(-1, -2).contiguous()
    if spec.logarithm == "natural":
        return power_BTF.add_(spec.floor).log_()
    decibel_BTF = power_BTF.clamp_(min=spec.floor).log10_().mul_(10)
    if spec.range_db is None:
        return decibel_BTF
    # The peak of each sound by itself: torchaudio's AmplitudeToDB would take that of the whole batch.
    return torch.maximum(decibel_BTF, decibel_BTF.amax(dim=(-2, -1), keepdim=True) - spec.range_db)


def frame_count(spec: SoundSpec, samples: int) -> int:
    """Say how many frames a sound of so many samples gives before padding."""
    if isinstance(spec, KaldiFbank):
        length, shift = frame_length(spec.rate_hz, spec.frame_ms), frame_length(spec.rate_hz, spec.shift_ms)
        return 1 + max(samples - length, 0) // shift
    return 1 + max(samples, spec.fft_size) // spec.hop_samples - int(spec.drop_last)


def fit_frames(audio_TF: Tensor, frames: int | None, fill: float) -> Tensor:
    """Cut at the end, or pad there, to the asked number of frames."""
    if frames is None:
        return audio_TF
    return functional.pad(audio_TF[:frames], (0, 0, 0, max(frames - len(audio_TF), 0)), value=fill)


def mask(spec: SpecAugment, audio_TF: Tensor, rng: np.random.Generator, fill: float) -> Tensor:
    """Wipe out bands and stretches; widths and places are this sample's own."""
    masked_TF = audio_TF.clone()
    for _ in range(spec.frequency_masks):
        first, end = _stretch(spec.frequency_width, audio_TF.shape[1], rng)
        masked_TF[:, first:end] = fill
    for _ in range(spec.time_masks):
        first, end = _stretch(spec.time_width, audio_TF.shape[0], rng)
        masked_TF[first:end] = fill
    return masked_TF


def _stretch(width: int, length: int, rng: np.random.Generator) -> tuple[int, int]:
    drawn = int(rng.integers(0, min(width, length) + 1))
    first = int(rng.integers(0, length - drawn + 1))
    return first, first + drawn


@functools.lru_cache(maxsize=8)
def _mel_spectrogram(spec: LogMel | XdcMel) -> nn.Module:
    make_importable()
    from torchaudio.transforms import MelSpectrogram  # here, for most workers never need it

    module: nn.Module = MelSpectrogram(
        sample_rate=spec.rate_hz,
        n_fft=spec.fft_size,
        win_length=spec.window_samples,
        hop_length=spec.hop_samples,
        f_min=spec.low_hz,
        f_max=spec.high_hz,
        n_mels=spec.mels,
        mel_scale=spec.scale,
        norm="slaney" if spec.scale == "slaney" else None,
    )
    return module
