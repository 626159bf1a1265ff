"""TimeSformer's block: attention among the frames of a place, then among the places of a frame, then a perceptron.

Bertasius et al. 2021, "Is Space-Time Attention All You Need for Video Understanding?", figure 2. As in the released
code, the class token takes no part in time; in space it joins every frame, and what it learns there is averaged.
Legend: B clips, t frames, n places of a frame, L = 1 + t n tokens, l = 1 + n, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from trichord.pretrain.layers.attention import Attention
from trichord.pretrain.layers.block import NORM_EPS
from trichord.pretrain.layers.drop_path import DropPath
from trichord.pretrain.layers.mlp import Mlp


class DividedBlock(nn.Module):
    """A pre-LN transformer block that takes time and space in turn. The grid stays frame by frame all the while."""

    joins_maps = True  # of two linear maps in time makes one; False counts the arithmetic as published

    def __init__(self, dim: int, heads: int, mlp_dim: int, drop_path: float) -> None:
        super().__init__()
        self.temporal_norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.temporal_attn = Attention(dim, heads)
        self.temporal_fc = nn.Linear(dim, dim)
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, mlp_dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, class_B1D: Tensor, grid_BtnD: Tensor, class_only: bool = False) -> tuple[Tensor, Tensor]:
        """Give the class token and the grid, or a grid of no places beside it."""
        # Tensors are taken apart by `split`, whose way back is one concatenation; that of slices also fills zeros.
        places = 0 if class_only else grid_BtnD.shape[2]
        grid_BtnD = grid_BtnD + self._learn_in_time(grid_BtnD)
        space_BtlD = self._learn_in_space(class_B1D, grid_BtnD, 1 + places)
        space_class_Bt1D, space_BtnD = torch.split(space_BtlD, [1, places], dim=2)
        class_B1D = class_B1D + space_class_Bt1D.mean(dim=1)
        grid_BtnD = grid_BtnD[:, :, :places] + space_BtnD
        tokens_BLD = torch.cat((class_B1D, grid_BtnD.flatten(1, 2)), dim=1)
        tokens_BLD = tokens_BLD + self.drop_path(self.mlp(self.norm2(tokens_BLD)))
        class_B1D, tokens_BLD = torch.split(tokens_BLD, [1, grid_BtnD.shape[1] * places], dim=1)
        return class_B1D, tokens_BLD.view(grid_BtnD.shape)

    def _learn_in_time(self, grid_BtnD: Tensor) -> Tensor:
        batch, frames, places, dim = grid_BtnD.shape
        answers_BtnD = self.temporal_attn.answers(self.temporal_norm1(grid_BtnD), frames)
        proj, fc = self.temporal_attn.proj, self.temporal_fc
        # Stochastic depth stands between two linear maps: a place that is dropped still learns the bias of the second.
        # It only scales, so the maps may be one; with more tokens than features, making that one costs less than two.
        if self.joins_maps and batch * frames * places > dim:
            learnt_BtnD = functional.linear(answers_BtnD, fc.weight @ proj.weight, fc.weight @ proj.bias)
            if not self.drop_path.is_active:
                return learnt_BtnD + fc.bias
            return learnt_BtnD * self.drop_path.scales(learnt_BtnD, batch, 1, places, 1) + fc.bias
        learnt_BtnD = proj(answers_BtnD)
        if self.drop_path.is_active:
            learnt_BtnD = learnt_BtnD * self.drop_path.scales(learnt_BtnD, batch, 1, places, 1)
        mixed_BtnD: Tensor = fc(learnt_BtnD)
        return mixed_BtnD

    def _learn_in_space(self, class_B1D: Tensor, grid_BtnD: Tensor, asking: int) -> Tensor:
        batch, frames, _, dim = grid_BtnD.shape
        class_Bt1D = class_B1D.unsqueeze(1).expand(batch, frames, 1, dim)
        tokens_NLD = self.norm1(torch.cat((class_Bt1D, grid_BtnD), dim=2)).flatten(0, 1)
        learnt_NLD: Tensor = self.drop_path(self.attn(tokens_NLD.unsqueeze(2), asking).squeeze(2))
        return learnt_NLD.view(batch, frames, asking, dim)
