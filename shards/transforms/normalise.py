"""Conversion of the uint8 pixels of a batch to normalised floats, on the device of the model.

Legend: B samples, C the three colours, T frames, H height, W width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Colours = tuple[float, float, float]


class Normalisation(BaseModel):
    """(x / 255 - mean) / std, by default ImageNet's; SVT is evaluated and TimeSformer trained with 0.45 and 0.225."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: Colours = (0.485, 0.456, 0.406)
    """Mean of red, green and blue, on a scale from 0 to 1."""
    std: Colours = (0.229, 0.224, 0.225)
    """Standard deviation of red, green and blue, on a scale from 0 to 1."""

    def __call__(self, frames_BCTHW: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return floats on the pixels' device; move pixels there before, as uint8, which is a quarter of the bytes."""
        import torch  # imported here, because recipes with means and deviations must load without torch

        if frames_BCTHW.dtype != torch.uint8:
            raise ValueError(f"expected uint8 pixels, found {frames_BCTHW.dtype}. Are they already normalised?")
        scale_C = 1.0 / (255.0 * torch.tensor(self.std, device=frames_BCTHW.device))
        shift_C = -torch.tensor(self.mean, device=frames_BCTHW.device) / torch.tensor(
            self.std, device=frames_BCTHW.device
        )
        # Computed in float32 and rounded once at the end: bfloat16 would lose half a level of each pixel.
        floats_BCTHW = frames_BCTHW.float().mul_(scale_C.view(3, 1, 1, 1)).add_(shift_C.view(3, 1, 1, 1))
        return floats_BCTHW.to(dtype or torch.float32)
