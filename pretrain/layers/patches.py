"""Cuts frames into square patches and makes a token of each (Dosovitskiy et al. 2021).

Legend: B clips, C colours, T frames, H rows and W columns of pixels, D features, t = T, h rows and w columns of
patches, p pixels along a patch.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class PatchProjection(nn.Conv2d):
    """A convolution whose windows touch and do not overlap, worked out as the matrix product that it is."""

    def __init__(self, dim: int, patch: int, has_bias: bool = True) -> None:
        super().__init__(3, dim, kernel_size=patch, stride=patch, bias=has_bias)
        self.patch = patch

    def forward(self, frames_BCTHW: Tensor) -> Tensor:
        batch, colours, frames, height, width = frames_BCTHW.shape
        rows, columns = height // self.patch, width // self.patch
        frames_BCThpwp = frames_BCTHW.view(batch, colours, frames, rows, self.patch, columns, self.patch)
        patches_Bthw_ = frames_BCThpwp.permute(0, 2, 3, 5, 1, 4, 6).flatten(4)
        return functional.linear(patches_Bthw_, self.weight.flatten(1), self.bias)


class PatchEmbedding(nn.Module):
    """Looks at each frame by itself."""

    def __init__(self, dim: int, patch: int, has_bias: bool = True) -> None:
        super().__init__()
        self.proj = PatchProjection(dim, patch, has_bias)

    def forward(self, frames_BCTHW: Tensor) -> Tensor:
        """Give a grid BthwD."""
        height, width = frames_BCTHW.shape[-2:]
        patch = self.proj.patch
        if height % patch or width % patch:
            raise ValueError(f"expected frames of a multiple of {patch} pixels, found {height} x {width}")
        grid_BthwD: Tensor = self.proj(frames_BCTHW)
        return grid_BthwD
