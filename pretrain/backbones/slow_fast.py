"""Slow-fast inference (SVT, section 4.1): one vector from few large frames and many small frames of the same clip.

The published results use such pairs: 8 frames of 224 pixels with 64 frames of 96 pixels.
"""

from __future__ import annotations

from torch import Tensor

from trichord.pretrain.backbones.base import Backbone


def slow_fast(backbone: Backbone, slow_BCTHW: Tensor, fast_BCTHW: Tensor) -> Tensor:
    """Average the pooled vectors of two views of the same clips."""
    slow_BD = backbone(slow_BCTHW, pooled_only=True).pooled_BD
    fast_BD = backbone(fast_BCTHW, pooled_only=True).pooled_BD
    averaged_BD: Tensor = (slow_BD + fast_BD) / 2
    return averaged_BD
