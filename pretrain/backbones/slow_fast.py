"""Slow-fast inference (SVT, section 4.1): few large frames and many small ones of one clip, one vector of both.

The published results are of such pairs: 8 frames of 224 pixels with 64 frames of 96 pixels.
"""

from __future__ import annotations

from torch import Tensor

from trichord.pretrain.backbones.base import Backbone


def slow_fast(backbone: Backbone, slow_BCTHW: Tensor, fast_BCTHW: Tensor) -> Tensor:
    """Average the pooled vectors of two looks at the same clips."""
    slow_BD = backbone(slow_BCTHW, pooled_only=True).pooled_BD
    fast_BD = backbone(fast_BCTHW, pooled_only=True).pooled_BD
    averaged_BD: Tensor = (slow_BD + fast_BD) / 2
    return averaged_BD
