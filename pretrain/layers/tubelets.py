"""Cuts clips into tubelets, patches of several frames, and makes a token of each (ViViT, Arnab et al. 2021, 3.2).

Tubelets of one frame are the paper's uniform frame sampling.
Legend: B clips, C colours, T frames, H rows and W columns of pixels, D features; t steps, h rows and w columns of
tubelets; f frames, p pixels along a tubelet.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

FirstTubelets = Literal["central", "inflated"]


class TubeletProjection(nn.Conv3d):
    """A convolution whose windows touch and do not overlap, worked out as the matrix product that it is."""

    def __init__(self, dim: int, frames: int, patch: int) -> None:
        super().__init__(3, dim, kernel_size=(frames, patch, patch), stride=(frames, patch, patch))

    def forward(self, frames_BCTHW: Tensor) -> Tensor:
        frames, patch, _ = self.kernel_size
        batch, colours, total, height, width = frames_BCTHW.shape
        steps, rows, columns = total // frames, height // patch, width // patch
        frames_BCtfhpwp = frames_BCTHW.reshape(batch, colours, steps, frames, rows, patch, columns, patch)
        tubelets_Bthw_ = frames_BCtfhpwp.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)
        return functional.linear(tubelets_Bthw_, self.weight.flatten(1), self.bias)


class TubeletEmbedding(nn.Module):
    """Looks at a few frames at a time."""

    def __init__(self, dim: int, frames: int, patch: int) -> None:
        super().__init__()
        self.proj = TubeletProjection(dim, frames, patch)

    def forward(self, frames_BCTHW: Tensor) -> Tensor:
        """Give a grid BthwD."""
        total, height, width = frames_BCTHW.shape[2:]
        frames, patch, _ = self.proj.kernel_size
        if total % frames or height % patch or width % patch:
            raise ValueError(
                f"expected a multiple of {frames} frames of a multiple of {patch} pixels, "
                f"found {total} of {height} x {width}"
            )
        grid_BthwD: Tensor = self.proj(frames_BCTHW)
        return grid_BthwD


def tubelets_of_images(kernel_DCpp: Tensor, frames: int, first: FirstTubelets) -> Tensor:
    """Give a kernel DCfpp that sees in a still clip what the kernel of an image model sees (ViViT, 3.4).

    Inflated, it looks at the mean of its frames; central, at one of them: of two, at the second.
    """
    kernel_DCfpp = kernel_DCpp.unsqueeze(2).expand(-1, -1, frames, -1, -1)
    if first == "inflated":
        return kernel_DCfpp / frames
    is_central_f = torch.arange(frames, device=kernel_DCpp.device) == frames // 2
    return kernel_DCfpp * is_central_f.to(kernel_DCpp.dtype).view(-1, 1, 1)
