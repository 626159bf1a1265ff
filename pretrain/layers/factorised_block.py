"""ViViT's blocks that keep a grid and attend in space and in time by themselves (Arnab et al. 2021, 3.3, models 3, 4).

Legend: B clips, t steps, n places of a step, N = B x t, D features, H heads, K = D / H; G heads side by side at all
places of an axis; h = D / 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from trichord.pretrain.layers.attention import Attention, QueryKeyValue, attend
from trichord.pretrain.layers.block import NORM_EPS
from trichord.pretrain.layers.drop_path import DropPath
from trichord.pretrain.layers.mlp import Mlp


class FactorisedSelfAttentionBlock(nn.Module):
    """Model 3: among the places of a step, then among the steps of a place, then a perceptron."""

    def __init__(self, dim: int, heads: int, mlp_dim: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, heads)
        self.temporal_norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.temporal_attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, mlp_dim, "tanh_gelu")
        self.drop_path = DropPath(drop_path)

    def forward(self, grid_BtnD: Tensor) -> Tensor:
        steps, places = grid_BtnD.shape[1:3]
        in_space_Nn1D = self.attn(self.norm1(grid_BtnD).flatten(0, 1).unsqueeze(2), places)
        grid_BtnD = grid_BtnD + self.drop_path(in_space_Nn1D.view_as(grid_BtnD))
        grid_BtnD = grid_BtnD + self.drop_path(self.temporal_attn(self.temporal_norm1(grid_BtnD), steps))
        learnt_BtnD: Tensor = self.drop_path(self.mlp(self.norm2(grid_BtnD)))
        return grid_BtnD + learnt_BtnD


class HalvedQueryKeyValue(QueryKeyValue):
    """One linear map whose output is six: queries, keys and values of the first half of the heads, and of the second.

    Dense outputs rather than parts of one: then places and heads are one axis, and nothing is copied.
    """

    def forward(self, grid_BtnD: Tensor) -> tuple[list[Tensor], list[Tensor]]:  # type: ignore[override]
        weights, biases = self.weight.chunk(6), self.bias.chunk(6)
        parts = [functional.linear(grid_BtnD, *part) for part in zip(weights, biases, strict=True)]
        return parts[::2], parts[1::2]


class DotProductAttention(nn.Module):
    """Half of the heads look along time and half along space, the first half along time as in the released code."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = HalvedQueryKeyValue(dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, grid_BtnD: Tensor) -> Tensor:
        batch, steps, places, dim = grid_BtnD.shape
        in_time, in_space = self.qkv(grid_BtnD)
        width = dim // self.heads
        time_BtGK = attend(*(part_Btnh.view(batch, steps, -1, width) for part_Btnh in in_time))
        space_NnGK = attend(*(part_Btnh.view(batch * steps, places, -1, width) for part_Btnh in in_space))
        answers = (answers.reshape(batch, steps, places, dim // 2) for answers in (time_BtGK, space_NnGK))
        mixed_BtnD: Tensor = self.proj(torch.cat(tuple(answers), dim=-1))
        return mixed_BtnD


class FactorisedDotProductBlock(nn.Module):
    """Model 4: a plain block, but that half of its heads attend in time and half in space."""

    def __init__(self, dim: int, heads: int, mlp_dim: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = DotProductAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, mlp_dim, "tanh_gelu")
        self.drop_path = DropPath(drop_path)

    def forward(self, grid_BtnD: Tensor) -> Tensor:
        grid_BtnD = grid_BtnD + self.drop_path(self.attn(self.norm1(grid_BtnD)))
        learnt_BtnD: Tensor = self.drop_path(self.mlp(self.norm2(grid_BtnD)))
        return grid_BtnD + learnt_BtnD
