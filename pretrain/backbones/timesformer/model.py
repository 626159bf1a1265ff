"""TimeSformer (Bertasius et al. 2021), the video transformer of SVT: divided, joint or space-only attention.

Parameters have the names of the released checkpoints. Frames and size of clips may differ from those of the position
tables. The divided block ("Is Space-Time Attention All You Need for Video Understanding?", figure 2) applies attention
among the frames of a place, then among the places of a frame, then an MLP. As in the released code, the class token is
left out of temporal attention; in spatial attention it is added to every frame, and its updates are averaged.
Legend: B clips, C colours, T frames, H rows and W columns of pixels; t = T, n = h x w places of a frame, L tokens (1 +
t n in a divided block), l = 1 + n, D features.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trichord.core.errors import UserError
from trichord.pretrain.backbones.base import Backbone, Tokens
from trichord.pretrain.backbones.timesformer import TimeSformerSpec
from trichord.pretrain.layers.embeddings import PatchEmbedding, positions_in_space, positions_in_time, table_of_square
from trichord.pretrain.layers.transformer import (
    NORM_EPS,
    Attention,
    DropPath,
    Mlp,
    TransformerBlock,
    growing_rates,
    run_block,
)
from trichord.pretrain.weights.naming import Family, Table, renamed, reversed_table

INITIAL_STD = 0.02
POSITION_STD_BY_WIDTH = 0.1


class TimeSformer(Backbone):
    """TimeSformer. The pooled vector is the class token after the final norm."""

    time_from_space = MappingProxyType({".norm1.": ".temporal_norm1.", ".attn.": ".temporal_attn."})

    def __init__(self, spec: TimeSformerSpec) -> None:
        super().__init__()
        self.spec = spec
        self.dim = spec.dim
        self.layers = spec.depth + 2
        self.patch_embed = PatchEmbedding(spec.dim, spec.patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, spec.dim))
        self.register_parameter("pos_embed", None)
        self.register_parameter("time_embed", None)
        if spec.positions != "none":
            self.pos_embed = nn.Parameter(torch.empty(1, 1 + (spec.size // spec.patch) ** 2, spec.dim))
        if spec.positions == "space-time":
            self.time_embed = nn.Parameter(torch.empty(1, spec.frames, spec.dim))
        block = DividedBlock if spec.attention == "divided" else TransformerBlock
        mlp_dim = int(spec.dim * spec.mlp_ratio)
        rates = growing_rates(spec.drop_path, spec.depth)
        self.blocks = nn.ModuleList(block(spec.dim, spec.heads, mlp_dim, rate) for rate in rates)
        self.norm = nn.LayerNorm(spec.dim, eps=NORM_EPS)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Initialise all weights as the released code does; temporal attention adds nothing at first."""
        by_width = self.spec.first_weights == "by_width"
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5 if by_width else INITIAL_STD)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm | nn.Conv2d):
                module.reset_parameters()
        for block in self.blocks:
            if isinstance(block, DividedBlock) and not by_width:
                nn.init.zeros_(block.temporal_fc.weight)
        table_std = POSITION_STD_BY_WIDTH if by_width else INITIAL_STD
        nn.init.trunc_normal_(self.cls_token, std=table_std)
        if self.pos_embed is not None:
            nn.init.trunc_normal_(self.pos_embed, std=table_std)
        if self.time_embed is not None:
            if by_width:
                nn.init.trunc_normal_(self.time_embed, std=table_std)
            else:
                nn.init.zeros_(self.time_embed)

    def forward(self, frames_BCTHW: Tensor, pooled_only: bool = False) -> Tokens:
        class_11D, grid_BtnD = self._embed(frames_BCTHW)
        if self.spec.attention == "divided":
            return self._attend_divided(class_11D, grid_BtnD, pooled_only)
        return self._attend_undivided(class_11D, grid_BtnD, pooled_only)

    @property
    def class_attention(self) -> Attention | None:
        attention = self.blocks[-1].attn
        assert isinstance(attention, Attention)
        return attention

    def count_as_published(self) -> None:
        for block in self.blocks:
            if isinstance(block, DividedBlock):
                block.joins_maps = False

    def layer_of(self, name: str) -> int:
        first, _, rest = name.partition(".")
        if first == "blocks":
            return int(rest.partition(".")[0]) + 1
        return self.layers - 1 if first == "norm" else 0

    def resized(self, name: str, tensor: Tensor, place: Tensor) -> Tensor | None:
        """Resize a position table as at run time."""
        if tensor.ndim != 3 or tensor.shape[::2] != place.shape[::2]:
            return None
        if name == "time_embed":
            return positions_in_time(tensor, place.shape[1])
        return table_of_square(tensor, place.shape[1]) if name == "pos_embed" else None

    def _embed(self, frames_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        """Embed patches and add positions in space and time; the class token gets only its entry of `pos_embed`."""
        grid_BthwD = self.patch_embed(frames_BCTHW)
        class_11D: Tensor = self.cls_token
        if self.pos_embed is not None:
            table_class_11D, table_1nD = torch.split(self.pos_embed, [1, self.pos_embed.shape[1] - 1], dim=1)
            class_11D = class_11D + table_class_11D
            position_1thwD = positions_in_space(table_1nD, *grid_BthwD.shape[2:4]).unsqueeze(1)
            if self.time_embed is not None:
                time_1tD = positions_in_time(self.time_embed, grid_BthwD.shape[1])
                position_1thwD = position_1thwD + time_1tD[:, :, None, None]
            grid_BthwD = grid_BthwD + position_1thwD
        return class_11D, grid_BthwD.flatten(2, 3)

    def _attend_divided(self, class_11D: Tensor, grid_BtnD: Tensor, pooled_only: bool) -> Tokens:
        class_B1D = class_11D.expand(len(grid_BtnD), 1, self.dim)
        for block in self.blocks[:-1]:
            class_B1D, grid_BtnD = self._run(block, class_B1D, grid_BtnD)
        class_B1D, grid_BtnD = self._run(self.blocks[-1], class_B1D, grid_BtnD, pooled_only)
        return Tokens(self.norm(class_B1D.squeeze(1)), self.norm(grid_BtnD))

    def _attend_undivided(self, class_11D: Tensor, grid_BtnD: Tensor, pooled_only: bool) -> Tokens:
        """Attend among all tokens of a clip, or of each frame, whose class tokens are then averaged."""
        batch, frames, places, dim = grid_BtnD.shape
        joined = 1 if self.spec.attention == "joint" else frames
        grid_NnD = grid_BtnD.reshape(batch * joined, -1, dim)
        tokens_NLD = torch.cat((class_11D.expand(len(grid_NnD), 1, dim), grid_NnD), dim=1)
        for block in self.blocks[:-1]:
            tokens_NLD = self._run(block, tokens_NLD)
        tokens_NLD = self._run(self.blocks[-1], tokens_NLD, pooled_only)
        class_N1D, grid_NnD = torch.split(tokens_NLD, [1, tokens_NLD.shape[1] - 1], dim=1)
        class_BD = class_N1D.reshape(batch, joined, dim).mean(dim=1)
        grid_BtnD = grid_NnD.reshape(batch, frames, 0 if pooled_only else places, dim)
        return Tokens(self.norm(class_BD), self.norm(grid_BtnD))

    def _run(self, block: nn.Module, *arguments: Tensor | bool) -> Any:
        return run_block(block, *arguments, recomputes=self.spec.activation_checkpointing)


class DividedBlock(nn.Module):
    """A pre-LN block of temporal attention, spatial attention and an MLP. The grid keeps its layout by frames."""

    joins_maps = True  # merge the two linear maps after temporal attention; False for the FLOPs as published

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
        """Return the class token and the grid, which is empty if `class_only`."""
        # `split` rather than slices: its backward pass is one concatenation, that of slices also fills zeros.
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
        outputs_BtnD = self.temporal_attn.head_outputs(self.temporal_norm1(grid_BtnD), frames)
        proj, fc = self.temporal_attn.proj, self.temporal_fc
        # Stochastic depth is between two linear maps: a dropped place still gets the bias of the second. It only
        # scales, so the maps can be merged; with more tokens than features, merging costs less than applying both.
        if self.joins_maps and batch * frames * places > dim:
            learnt_BtnD = functional.linear(outputs_BtnD, fc.weight @ proj.weight, fc.weight @ proj.bias)
            if not self.drop_path.is_active:
                return learnt_BtnD + fc.bias
            return learnt_BtnD * self.drop_path.scales(learnt_BtnD, batch, 1, places, 1) + fc.bias
        learnt_BtnD = proj(outputs_BtnD)
        if self.drop_path.is_active:
            learnt_BtnD = learnt_BtnD * self.drop_path.scales(learnt_BtnD, batch, 1, places, 1)
        mixed_BtnD: Tensor = fc(learnt_BtnD)
        return mixed_BtnD

    def _learn_in_space(self, class_B1D: Tensor, grid_BtnD: Tensor, query_count: int) -> Tensor:
        batch, frames, _, dim = grid_BtnD.shape
        class_Bt1D = class_B1D.unsqueeze(1).expand(batch, frames, 1, dim)
        tokens_NLD = self.norm1(torch.cat((class_Bt1D, grid_BtnD), dim=2)).flatten(0, 1)
        learnt_NLD: Tensor = self.drop_path(self.attn(tokens_NLD.unsqueeze(2), query_count).squeeze(2))
        return learnt_NLD.view(batch, frames, query_count, dim)


def _hugging_face(prefix: str) -> Table:
    """Return the names in files converted by Hugging Face; `prefix` is that of the model's tensors."""
    layer, block = f"{prefix}encoder.layer.{{n}}.", "backbone.blocks.{n}."
    return (
        (f"{prefix}embeddings.cls_token", "backbone.cls_token"),
        (f"{prefix}embeddings.position_embeddings", "backbone.pos_embed"),
        (f"{prefix}embeddings.time_embeddings", "backbone.time_embed"),
        (f"{prefix}embeddings.patch_embeddings.projection.{{rest}}", "backbone.patch_embed.proj.{rest}"),
        (f"{layer}layernorm_before.{{rest}}", f"{block}norm1.{{rest}}"),
        (f"{layer}layernorm_after.{{rest}}", f"{block}norm2.{{rest}}"),
        (f"{layer}attention.attention.qkv.{{rest}}", f"{block}attn.qkv.{{rest}}"),
        (f"{layer}attention.output.dense.{{rest}}", f"{block}attn.proj.{{rest}}"),
        (f"{layer}temporal_layernorm.{{rest}}", f"{block}temporal_norm1.{{rest}}"),
        (f"{layer}temporal_attention.attention.qkv.{{rest}}", f"{block}temporal_attn.qkv.{{rest}}"),
        (f"{layer}temporal_attention.output.dense.{{rest}}", f"{block}temporal_attn.proj.{{rest}}"),
        (f"{layer}temporal_dense.{{rest}}", f"{block}temporal_fc.{{rest}}"),
        (f"{layer}intermediate.dense.{{rest}}", f"{block}mlp.fc1.{{rest}}"),
        (f"{layer}output.dense.{{rest}}", f"{block}mlp.fc2.{{rest}}"),
        (f"{prefix}layernorm.{{rest}}", "backbone.norm.{rest}"),
        ("classifier.{rest}", "classifier.{rest}"),
    )


HUGGING_FACE_TIMESFORMER = _hugging_face("timesformer.")

FAMILIES = (
    Family(
        "TimeSformer",
        "model.blocks.0.attn.qkv.weight",
        (("model.head.{rest}", "classifier.{rest}"), ("model.{rest}", "backbone.{rest}")),
    ),
    Family(
        "TimeSformer of Hugging Face",
        "timesformer.encoder.layer.0.attention.attention.qkv.weight",
        HUGGING_FACE_TIMESFORMER,
    ),
    Family(
        "TimeSformer of Hugging Face, no classifier",
        "encoder.layer.0.attention.attention.qkv.weight",
        _hugging_face(""),
    ),
)


# The values of Hugging Face's configuration; its class supports these positions only.
_ATTENTION = {"divided": "divided_space_time", "joint": "joint_space_time", "space": "space_only"}
_POSITIONS = {"divided": "space-time", "joint": "space-time", "space": "space"}
_TO_HUGGING_FACE = reversed_table(HUGGING_FACE_TIMESFORMER)


def as_hugging_face(tensors: dict[str, Tensor], spec: TimeSformerSpec) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a backbone with the names of TimesformerModel, which has no head, and the content of its config.json."""
    if spec.positions != _POSITIONS[spec.attention]:
        raise UserError(
            f"Hugging Face's TimeSformer does not support positions '{spec.positions}' with attention "
            f"'{spec.attention}', only '{_POSITIONS[spec.attention]}'. Next: trichord export RUN --format safetensors"
        )
    named = {
        renamed(name, _TO_HUGGING_FACE).removeprefix("timesformer."): tensor
        for name, tensor in tensors.items()
        if name.startswith("backbone.")
    }
    config = {
        "architectures": ["TimesformerModel"],
        "model_type": "timesformer",
        "image_size": spec.size,
        "patch_size": spec.patch,
        "num_channels": 3,
        "num_frames": spec.frames,
        "hidden_size": spec.dim,
        "num_hidden_layers": spec.depth,
        "num_attention_heads": spec.heads,
        "intermediate_size": int(spec.dim * spec.mlp_ratio),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "attention_type": _ATTENTION[spec.attention],
        "drop_path_rate": 0,
        "torch_dtype": "float32",
    }
    return named, config
