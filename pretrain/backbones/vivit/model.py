"""ViViT (Arnab et al. 2021), models 1 to 4: tubelets that attend jointly, or in space and in time separately.

Frames and size of clips may differ from those of the position tables, which are then interpolated. The blocks of models
3 and 4 (section 3.3) keep the grid layout and attend in space and in time separately.
Legend: B clips, C colours, T frames, H rows and W columns of pixels; t steps, h rows and w columns of tubelets, n = h x
w places of a step, N = B x t, c class tokens (1 or 0), L tokens, D features, p pixels along a patch. In attention: H
heads, K = D / H, G the heads of all places of an axis, h = D / 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

from trichord.pretrain.backbones.base import Backbone, Tokens
from trichord.pretrain.backbones.vivit import ViViTSpec
from trichord.pretrain.layers.embeddings import TubeletEmbedding, positions_between, tubelets_of_images
from trichord.pretrain.layers.transformer import (
    NORM_EPS,
    Attention,
    DropPath,
    Mlp,
    QueryKeyValue,
    TransformerBlock,
    attend,
    growing_rates,
    run_block,
)

POSITION_STD = 0.02
_RELEASED_PLACES = 14 * 14  # 224 pixels in patches of 16


class ViViT(Backbone):
    """ViViT. The pooled vector is the class token after the final norm, or the mean of all tokens after it.

    The grid of a factorised encoder is the output of its first (spatial) encoder.
    """

    def __init__(self, spec: ViViTSpec) -> None:
        super().__init__()
        self.spec = spec
        self.dim = spec.dim
        self.has_class = spec.pooled == "class"
        self.is_encoder = spec.model == "factorised_encoder"
        time_depth = spec.time_depth if self.is_encoder else 0
        self.layers = spec.depth + time_depth + 2
        self.steps, self.places = spec.frames // spec.tubelet, (spec.size // spec.patch) ** 2
        self.patch_embed = TubeletEmbedding(spec.dim, spec.tubelet, spec.patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, spec.dim)) if self.has_class else None
        entries = self.places * (1 if self.is_encoder else self.steps)
        self.pos_embed = nn.Parameter(torch.empty(1, self.has_class + entries, spec.dim))
        self.blocks = _blocks(spec, spec.depth)
        self.norm = nn.LayerNorm(spec.dim, eps=NORM_EPS)
        if time_depth:
            self.time_cls_token = nn.Parameter(torch.empty(1, 1, spec.dim)) if self.has_class else None
            self.time_embed = nn.Parameter(torch.empty(1, self.has_class + self.steps, spec.dim))
            self.time_blocks = _blocks(spec, time_depth)
            self.time_norm = nn.LayerNorm(spec.dim, eps=NORM_EPS)
        if spec.model == "factorised_self_attention":
            self.time_from_space = {".norm1.": ".temporal_norm1.", ".attn.": ".temporal_attn."}
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Initialise all weights by the width of their inputs; model 3's temporal attention adds nothing at first.

        The paper zeroes all weights of that attention; then only one bias would get a gradient, so only its last map is
        zeroed here.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                for weight in module.weight.chunk(3 if isinstance(module, QueryKeyValue) else 1):
                    nn.init.xavier_uniform_(weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        projection = self.patch_embed.proj
        nn.init.trunc_normal_(projection.weight, std=projection.weight[0].numel() ** -0.5)
        nn.init.zeros_(projection.get_parameter("bias"))
        for block in self.blocks:
            if isinstance(block, FactorisedSelfAttentionBlock):
                nn.init.zeros_(block.temporal_attn.proj.weight)
        for name, parameter in self.named_parameters(recurse=False):
            nn.init.normal_(parameter, std=0.0 if name.endswith("cls_token") else POSITION_STD)

    def forward(self, frames_BCTHW: Tensor, pooled_only: bool = False) -> Tokens:
        grid_BthwD = self.patch_embed(frames_BCTHW)
        class_1cD, position_1tnD = self._positions(*grid_BthwD.shape[1:4])
        grid_BtnD = grid_BthwD.flatten(2, 3) + position_1tnD
        if self.spec.model in ("factorised_self_attention", "factorised_dot_product"):
            for block in self.blocks:
                grid_BtnD = run_block(block, grid_BtnD, recomputes=self.spec.activation_checkpointing)
            grid_BtnD = self.norm(grid_BtnD)
            return Tokens(grid_BtnD.mean(dim=(1, 2)), grid_BtnD[:, :, :0] if pooled_only else grid_BtnD)
        batch, steps, places = grid_BtnD.shape[:3]
        together_NLD = grid_BtnD.flatten(0, 1) if self.is_encoder else grid_BtnD.flatten(1, 2)
        pooled_ND, grid_NLD = self._attend(self.blocks, self.norm, class_1cD, together_NLD, pooled_only)
        if self.is_encoder:
            pooled_ND = self._attend_in_time(pooled_ND.view(batch, steps, self.dim))
        return Tokens(pooled_ND, grid_NLD.reshape(batch, steps, 0 if pooled_only else places, self.dim))

    @property
    def class_attention(self) -> Attention | None:
        attention = self.blocks[-1].attn
        return attention if self.has_class and isinstance(attention, Attention) else None

    def layer_of(self, name: str) -> int:
        first, _, rest = name.partition(".")
        if first in ("blocks", "time_blocks"):
            return int(rest.partition(".")[0]) + 1 + (self.spec.depth if first == "time_blocks" else 0)
        if first == "time_norm":
            return self.layers - 1
        return self.spec.depth + 1 if first in ("norm", "time_cls_token", "time_embed") else 0

    def of_images(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Convert an image model: patches to tubelets, positions repeated at every step (sections 3.2 and 3.4)."""
        kernel = tensors.get("patch_embed.proj.weight")
        if kernel is None or kernel.ndim != 4:
            return tensors
        adapted = dict(tensors)
        adapted["patch_embed.proj.weight"] = tubelets_of_images(kernel, self.spec.tubelet, self.spec.first_tubelets)
        table_1LD = tensors.get("pos_embed")
        if table_1LD is not None and isqrt(table_1LD.shape[1] - 1) ** 2 == table_1LD.shape[1] - 1:
            class_1cD, table_1nD = torch.split(table_1LD, [1, table_1LD.shape[1] - 1], dim=1)
            side, steps = isqrt(self.places), 1 if self.is_encoder else self.steps
            grid_11nD = positions_between(table_1nD.unsqueeze(1), 1, side, side).flatten(2, 3)
            tiled_1LD = grid_11nD.expand(-1, steps, -1, -1).flatten(1, 2)
            adapted["pos_embed"] = torch.cat((class_1cD, tiled_1LD), dim=1) if self.has_class else tiled_1LD
        return adapted

    def resized(self, name: str, tensor: Tensor, place: Tensor) -> Tensor | None:
        """Interpolate a position table of the same size and other steps, or of the same steps and another size.

        Some lengths fit both, such as 4 times the steps and twice the size: then the places of released files are
        assumed if they are an option, otherwise the result is None.
        """
        if name not in ("pos_embed", "time_embed") or tensor.ndim != 3 or tensor.shape[2] != place.shape[2]:
            return None
        class_1cD, table_1LD = torch.split(tensor, [int(self.has_class), tensor.shape[1] - self.has_class], dim=1)
        places = 1 if name == "time_embed" else self.places
        steps = (place.shape[1] - self.has_class) // places
        entries = table_1LD.shape[1]
        can_differ_in_steps = name == "time_embed" or not self.is_encoder
        found = {places} if can_differ_in_steps and entries % places == 0 else set()
        if name == "pos_embed" and entries % steps == 0 and isqrt(entries // steps) ** 2 == entries // steps:
            found.add(entries // steps)
        found = found & {_RELEASED_PLACES} if len(found) > 1 else found
        if not found:
            return None
        table_1TnD = table_1LD.unflatten(1, (-1, found.pop()))
        resized_1thwD = positions_between(table_1TnD, steps, isqrt(places), isqrt(places))
        return torch.cat((class_1cD, resized_1thwD.flatten(1, 3)), dim=1)

    def _positions(self, steps: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Return the class token with its position (empty without one), and the positions of grid tokens."""
        entries = self.pos_embed.shape[1] - self.has_class
        class_1cD, table_1LD = torch.split(self.pos_embed, [int(self.has_class), entries], dim=1)
        table_1TnD = table_1LD.unflatten(1, (-1, self.places))
        position_1thwD = positions_between(table_1TnD, 1 if self.is_encoder else steps, rows, columns)
        if self.cls_token is not None:
            class_1cD = class_1cD + self.cls_token
        return class_1cD, position_1thwD.flatten(2, 3)

    def _attend_in_time(self, steps_BtD: Tensor) -> Tensor:
        """Pool the vectors of all steps into one."""
        if not self.spec.time_depth:
            return steps_BtD.mean(dim=1)
        entries = self.time_embed.shape[1] - self.has_class
        class_1cD, table_1TD = torch.split(self.time_embed, [int(self.has_class), entries], dim=1)
        steps_BtD = steps_BtD + positions_between(table_1TD.unsqueeze(2), steps_BtD.shape[1], 1, 1).flatten(1, 3)
        if self.time_cls_token is not None:
            class_1cD = class_1cD + self.time_cls_token
        return self._attend(self.time_blocks, self.time_norm, class_1cD, steps_BtD, pooled_only=True)[0]

    def _attend(
        self, blocks: nn.ModuleList, norm: nn.Module, class_1cD: Tensor, tokens_NLD: Tensor, pooled_only: bool
    ) -> tuple[Tensor, Tensor]:
        """Attend among tokens and the class token, if any; return the pooled vector and the tokens (or none)."""
        recomputes = self.spec.activation_checkpointing
        tokens_NLD = torch.cat((class_1cD.expand(len(tokens_NLD), -1, -1), tokens_NLD), dim=1)
        for block in blocks[:-1]:
            tokens_NLD = run_block(block, tokens_NLD, recomputes=recomputes)
        tokens_NLD = norm(run_block(blocks[-1], tokens_NLD, pooled_only and self.has_class, recomputes=recomputes))
        if not self.has_class:
            return tokens_NLD.mean(dim=1), tokens_NLD[:, :0] if pooled_only else tokens_NLD
        class_N1D, tokens_NLD = torch.split(tokens_NLD, [1, tokens_NLD.shape[1] - 1], dim=1)
        return class_N1D.squeeze(1), tokens_NLD


def _blocks(spec: ViViTSpec, depth: int) -> nn.ModuleList:
    """Build an encoder's blocks; rates of stochastic depth grow within each encoder."""
    sizes = (spec.dim, spec.heads, int(spec.dim * spec.mlp_ratio))
    rates = growing_rates(spec.drop_path, depth)
    build = _BLOCKS[spec.model]
    return nn.ModuleList(build(*sizes, rate) for rate in rates)


class FactorisedSelfAttentionBlock(nn.Module):
    """The block of model 3: attention among the places of a step, then among the steps of a place, then an MLP."""

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
    """One linear map with six outputs: queries, keys and values of the first and of the second half of the heads.

    The outputs are separate dense tensors: then places and heads can be viewed as one axis without copies.
    """

    def forward(self, grid_BtnD: Tensor) -> tuple[list[Tensor], list[Tensor]]:  # type: ignore[override]
        weights, biases = self.weight.chunk(6), self.bias.chunk(6)
        parts = [functional.linear(grid_BtnD, *part) for part in zip(weights, biases, strict=True)]
        return parts[::2], parts[1::2]


class DotProductAttention(nn.Module):
    """Attention of half of the heads in time and half in space; the first half in time, as in the released code."""

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
        outputs = (outputs.reshape(batch, steps, places, dim // 2) for outputs in (time_BtGK, space_NnGK))
        mixed_BtnD: Tensor = self.proj(torch.cat(tuple(outputs), dim=-1))
        return mixed_BtnD


class FactorisedDotProductBlock(nn.Module):
    """The block of model 4: a plain block in which half of the heads attend in time and half in space."""

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


_PLAIN = partial(TransformerBlock, activation="tanh_gelu")
_BLOCKS: Mapping[str, Callable[..., nn.Module]] = {
    "joint": _PLAIN,
    "factorised_encoder": _PLAIN,
    "factorised_self_attention": FactorisedSelfAttentionBlock,
    "factorised_dot_product": FactorisedDotProductBlock,
}
