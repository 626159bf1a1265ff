"""Kaldi's log-mel filterbank as AST uses it, batched and with its tables kept: over twice as fast as torchaudio's.

Per 25 ms frame every 10 ms: the frame's mean off, pre-emphasis 0.97, symmetric Hann window, zeros to 512 samples, power
spectrum, triangles that are linear on the mel scale 1127 ln(1 + f / 700) from 20 Hz to Nyquist, natural logarithm with
a floor at the machine epsilon. Only whole frames count (`snip_edges`), dither is 0, energy is left out (so
`htk_compat`, which only says where energy goes, changes nothing).
Legend: B sounds, N samples, T frames, W samples of a frame, F mel filters, K frequency bins.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional

PRE_EMPHASIS = 0.97
LOW_HZ = 20.0


@functools.lru_cache(maxsize=8)
def filters_KF(rate: int, fft_size: int, mels: int) -> Tensor:
    """Make the triangles: rising from the left neighbour's centre, falling to the right one's, linear in mel.

    In single precision throughout, as torchaudio makes them: the triangles are so narrow that doubles would move the
    result by 1e-4, and published weights have seen these.
    """
    low, high = _mel(LOW_HZ), _mel(rate / 2)
    step = (high - low) / (mels + 1)
    left, centre, right = (low + (torch.arange(mels) + offset) * step for offset in (0.0, 1.0, 2.0))
    bins = 1127.0 * (1.0 + torch.arange(fft_size // 2) * (rate / fft_size) / 700.0).log()
    rising = (bins[:, None] - left) / (centre - left)
    falling = (right - bins[:, None]) / (right - centre)
    return functional.pad(torch.minimum(rising, falling).clamp_(min=0), (0, 0, 0, 1))  # the Nyquist bin is left out


@functools.lru_cache(maxsize=8)
def window_W(length: int) -> Tensor:
    """Make the symmetric Hann window."""
    return torch.hann_window(length, periodic=False)


def frame_length(rate: int, milliseconds: float) -> int:
    """Give the samples in this time, cut off as Kaldi does."""
    return int(rate * milliseconds * 0.001)


@functools.lru_cache(maxsize=8)
def bands(rate: int, fft_size: int, mels: int) -> tuple[tuple[int, int, Tensor], ...]:
    """Cut the filters into four bands and keep of each only the bins it looks at: (first bin, end, filters).

    Three quarters of the matrix are zero, and a product that skips most of them takes half the time.
    """
    cut = []
    for band_KF in filters_KF(rate, fft_size, mels).chunk(4, dim=1):
        used = band_KF.sum(dim=1).nonzero()
        first, end = int(used.min()), int(used.max()) + 1
        cut.append((first, end, band_KF[first:end].contiguous()))
    return tuple(cut)


def log_fbank(samples_BN: Tensor, rate: int, mels: int, frame_ms: float = 25.0, shift_ms: float = 10.0) -> Tensor:
    """Give audio_BTF of float sounds in [-1, 1]; one shorter than a frame is filled up with zeros to one frame."""
    length, shift = frame_length(rate, frame_ms), frame_length(rate, shift_ms)
    if samples_BN.shape[-1] < length:
        samples_BN = functional.pad(samples_BN, (0, length - samples_BN.shape[-1]))
    fft_size = 2 ** (length - 1).bit_length()
    frames_BTW = samples_BN.unfold(-1, length, shift)
    padded_BTW = frames_BTW.new_empty(*frames_BTW.shape[:-1], fft_size)
    padded_BTW[..., length:] = 0.0
    # In place wherever it can be: fresh memory costs as much as the arithmetic here.
    centred_BTW = padded_BTW[..., :length]
    torch.sub(frames_BTW, frames_BTW.mean(dim=-1, keepdim=True), out=centred_BTW)
    # Product and difference are rounded apart, as torchaudio does: near a spectral zero one more bit shows in the log.
    earlier_BTW = centred_BTW * PRE_EMPHASIS
    centred_BTW[..., 1:] -= earlier_BTW[..., :-1]
    centred_BTW[..., 0] -= earlier_BTW[..., 0]
    centred_BTW *= window_W(length)
    parts_BTK2 = torch.view_as_real(torch.fft.rfft(padded_BTW))
    parts_BTK2 *= parts_BTK2
    power_BTK = parts_BTK2[..., 0] + parts_BTK2[..., 1]
    cut = bands(rate, fft_size, mels)
    audio_BTF = torch.cat([power_BTK[..., first:end] @ band_KF for first, end, band_KF in cut], dim=-1)
    return audio_BTF.clamp_(min=torch.finfo(torch.float32).eps).log_()


def _mel(hertz: float) -> float:
    return 1127.0 * math.log(1.0 + hertz / 700.0)
