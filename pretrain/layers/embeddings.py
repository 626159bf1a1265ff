"""Embeddings of patches and of positions.

Frames are cut into square patches (Dosovitskiy et al. 2021), or clips into tubelets, patches of several frames (ViViT,
Arnab et al. 2021, 3.2), and each is projected to a token. Tubelets of one frame are ViViT's uniform frame sampling.
Position tables are resized for another number of frames or another size: in time by the nearest entry, as in
TimeSformer and SVT, or linearly, as in VideoMamba; in space by the nearest entry or bicubically, as in CLIP.
Legend: B clips, C colours, T frames, H rows and W columns of pixels, D features; t frames or steps, h rows and w
columns of patches or tubelets, n = h x w; f frames and p pixels along a tubelet or patch; of tables, T frames and N
places.
"""

from __future__ import annotations

from math import isqrt
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


class PatchProjection(nn.Conv2d):
    """A convolution with stride equal to kernel size, computed as one matrix product."""

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
    """Embeds the patches of each frame separately."""

    def __init__(self, dim: int, patch: int, has_bias: bool = True) -> None:
        super().__init__()
        self.proj = PatchProjection(dim, patch, has_bias)

    def forward(self, frames_BCTHW: Tensor) -> Tensor:
        """Return a grid BthwD."""
        height, width = frames_BCTHW.shape[-2:]
        patch = self.proj.patch
        if height % patch or width % patch:
            raise ValueError(f"expected frames of a multiple of {patch} pixels, found {height} x {width}")
        grid_BthwD: Tensor = self.proj(frames_BCTHW)
        return grid_BthwD


Between = Literal["nearest", "bicubic"]  # how a table is interpolated


def positions_in_time(table_1TD: Tensor, frames: int, between: Literal["nearest", "linear"] = "nearest") -> Tensor:
    """Resize a temporal position table to 1tD."""
    if table_1TD.shape[1] == frames:
        return table_1TD
    resized_1Dt: Tensor = functional.interpolate(table_1TD.transpose(1, 2), size=frames, mode=between)
    return resized_1Dt.transpose(1, 2)


def positions_in_space(table_1ND: Tensor, rows: int, columns: int, between: Between = "nearest") -> Tensor:
    """Resize a spatial position table of a square, in row order, to 1hwD."""
    side = isqrt(table_1ND.shape[1])
    table_1hwD = table_1ND.reshape(1, side, side, -1)
    if (side, side) == (rows, columns):
        return table_1hwD
    table_1Dhw = table_1hwD.permute(0, 3, 1, 2)
    resized_1Dhw: Tensor = functional.interpolate(table_1Dhw, size=(rows, columns), mode=between)
    return resized_1Dhw.permute(0, 2, 3, 1)


def table_of_square(table_1ND: Tensor, places: int, between: Between = "nearest") -> Tensor | None:
    """Resize a square table to another square, 1nD, both with a leading class token; None if either is not square."""
    sides = [isqrt(number - 1) for number in (table_1ND.shape[1], places)]
    if [side**2 + 1 for side in sides] != [table_1ND.shape[1], places]:
        return None
    class_11D, square_1ND = torch.split(table_1ND, [1, table_1ND.shape[1] - 1], dim=1)
    resized_1hwD = positions_in_space(square_1ND, sides[1], sides[1], between)
    return torch.cat((class_11D, resized_1hwD.flatten(1, 2)), dim=1)


def positions_between(table_1TND: Tensor, frames: int, rows: int, columns: int) -> Tensor:
    """Resize a table of a square for each frame to 1thwD, by trilinear interpolation."""
    side = isqrt(table_1TND.shape[2])
    table_1ThwD = table_1TND.reshape(1, -1, side, side, table_1TND.shape[3])
    if table_1ThwD.shape[1:4] == (frames, rows, columns):
        return table_1ThwD
    table_1DThw = table_1ThwD.permute(0, 4, 1, 2, 3)
    resized_1Dthw: Tensor = functional.interpolate(table_1DThw, size=(frames, rows, columns), mode="trilinear")
    return resized_1Dthw.permute(0, 2, 3, 4, 1)


FirstTubelets = Literal["central", "inflated"]


class TubeletProjection(nn.Conv3d):
    """A convolution with stride equal to kernel size, computed as one matrix product."""

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
    """Embeds tubelets, patches of several frames."""

    def __init__(self, dim: int, frames: int, patch: int) -> None:
        super().__init__()
        self.proj = TubeletProjection(dim, frames, patch)

    def forward(self, frames_BCTHW: Tensor) -> Tensor:
        """Return a grid BthwD."""
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
    """Return a kernel DCfpp whose output on a still clip is that of an image model's kernel (ViViT, 3.4).

    "inflated" applies the kernel to the mean of the frames, "central" to the central frame: of two, the second.
    """
    kernel_DCfpp = kernel_DCpp.unsqueeze(2).expand(-1, -1, frames, -1, -1)
    if first == "inflated":
        return kernel_DCfpp / frames
    is_central_f = torch.arange(frames, device=kernel_DCpp.device) == frames // 2
    return kernel_DCfpp * is_central_f.to(kernel_DCpp.dtype).view(-1, 1, 1)
