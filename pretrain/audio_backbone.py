"""What an audio backbone is to objectives and heads: a log-mel picture in, one pooled vector and a grid of tokens out.

Legend: B samples, T frames and M mel filters of the spectrogram; D features, t steps and m bands of tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

from torch import Tensor

from trichord.pretrain.backbone import Encoder


class AudioTokens(NamedTuple):
    """What an audio backbone makes of a batch of sounds."""

    pooled_BD: Tensor
    grid_BtmD: Tensor  # without class tokens; no bands where only the pooled vector was asked for


class AudioBackbone(Encoder):
    """An encoder of sound, in the form that `shards.hearing.spectrogram` gives it: normalised, time first."""

    @abstractmethod
    def forward(self, audio_BTM: Tensor, pooled_only: bool = False) -> AudioTokens:
        """Encode spectrograms; who needs the pooled vector only may spare what only the grid needs."""
