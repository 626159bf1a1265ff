"""X-CLIP's video encoder (Ni et al. 2022): CLIP's image encoder, whose frames exchange messages, and a transformer over
frames that pools them into one vector. Without both, it is CLIP (Radford et al. 2021) averaged over frames.

In X-CLIP's block ("Expanding Language-Image Pretrained Models for General Video Recognition", section 3.2), the class
token of each frame is projected to a message, messages attend to each other (cross-frame fusion attention), then the
tokens of a frame attend to each other and to its message (intra-frame diffusion attention). Output vectors lie in the
space that CLIP shares with text.
Legend: B clips, C colours, T frames, H rows and W columns of pixels; t = T, N = B x t, n = h x w places, L = 1 + n
tokens of a frame, M = L + 1 with its message, D features of a token, E of the shared space.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trichord.pretrain.backbones.base import Backbone, Tokens
from trichord.pretrain.backbones.xclip import XClipSpec
from trichord.pretrain.layers.embeddings import PatchEmbedding, positions_in_space, positions_in_time, table_of_square
from trichord.pretrain.layers.transformer import (
    Activation,
    Attention,
    TransformerBlock,
    draw_by_width,
    growing_rates,
    run_block,
)

NORM_EPS = 1e-5
_TIME_STD = 0.02


class Frames(NamedTuple):
    """The output of the image encoder for each frame."""

    class_BtE: Tensor
    grid_BtnD: Tensor  # last block's output before the norm; X-CLIP's prompts attend to it


class XClip(Backbone):
    """X-CLIP or CLIP. The pooled vector integrates all frames; the grid is projected as class tokens are."""

    is_joint = True

    def __init__(self, spec: XClipSpec) -> None:
        super().__init__()
        self.spec = spec
        self.dim = spec.joint_dim
        self.layers = spec.depth + 2
        self.patch_embed = PatchEmbedding(spec.dim, spec.patch, has_bias=False)
        self.cls_token = nn.Parameter(torch.empty(1, 1, spec.dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + (spec.size // spec.patch) ** 2, spec.dim))
        self.norm_pre = nn.LayerNorm(spec.dim, eps=NORM_EPS)
        mlp_dim = int(spec.dim * spec.mlp_ratio)
        rates = growing_rates(spec.drop_path, spec.depth)
        block = MessageBlock if spec.messages else TransformerBlock
        self.blocks = nn.ModuleList(
            block(spec.dim, spec.heads, mlp_dim, rate, spec.activation, NORM_EPS) for rate in rates
        )
        self.norm = nn.LayerNorm(spec.dim, eps=NORM_EPS)
        self.proj = nn.Linear(spec.dim, spec.joint_dim, bias=False)
        self.register_parameter("time_embed", None)
        if spec.integration_depth:
            self.time_embed = nn.Parameter(torch.empty(1, spec.frames, spec.joint_dim))
        self.integration = nn.ModuleList(
            TransformerBlock(spec.joint_dim, spec.joint_heads, 4 * spec.joint_dim, 0.0, spec.activation, NORM_EPS)
            for _ in range(spec.integration_depth)
        )
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Initialise all weights by the width of their inputs, as CLIP does for text and tables."""
        draw_by_width(self)
        for table in (self.cls_token, self.pos_embed):
            nn.init.normal_(table, std=self.spec.dim**-0.5)
        if self.time_embed is not None:
            nn.init.trunc_normal_(self.time_embed, std=_TIME_STD)

    def forward(self, frames_BCTHW: Tensor, pooled_only: bool = False, raw_grid: bool = False) -> Tokens:
        class_BtE, grid_BtnD = self.encode_frames(frames_BCTHW, pooled_only)
        return Tokens(self.integrate(class_BtE), grid_BtnD if raw_grid else self.proj(self.norm(grid_BtnD)))

    @property
    def class_attention(self) -> Attention | None:
        attention = self.blocks[-1].attn
        assert isinstance(attention, Attention)
        return attention

    @property
    def place_dim(self) -> int:
        return self.spec.dim

    def encode_grid(self, frames_BCTHW: Tensor) -> Tokens:
        tokens: Tokens = self(frames_BCTHW, raw_grid=True)
        return tokens

    def encode_frames(self, frames_BCTHW: Tensor, class_only: bool = False) -> Frames:
        """Encode each frame, with the messages of the others if enabled."""
        tokens_BtLD = self.norm_pre(self._embed(frames_BCTHW))
        tokens = tokens_BtLD if self.spec.messages else tokens_BtLD.flatten(0, 1)
        for block in self.blocks[:-1]:
            tokens = self._run(block, tokens)
        tokens = self._run(self.blocks[-1], tokens, class_only)
        tokens_BtLD = tokens.view(*tokens_BtLD.shape[:2], -1, self.spec.dim)
        class_Bt1D, grid_BtnD = torch.split(tokens_BtLD, [1, tokens_BtLD.shape[2] - 1], dim=2)
        return Frames(self.proj(self.norm(class_Bt1D.squeeze(2))), grid_BtnD)

    def integrate(self, class_BtE: Tensor) -> Tensor:
        """Pool a clip's frames into one vector (section 3.2), with a residual around the blocks over frames."""
        learnt_BtE = class_BtE
        if self.time_embed is not None:
            learnt_BtE = learnt_BtE + positions_in_time(self.time_embed, class_BtE.shape[1])
            for block in self.integration:
                learnt_BtE = self._run(block, learnt_BtE)
            learnt_BtE = learnt_BtE + class_BtE
        pooled_BE: Tensor = learnt_BtE.mean(dim=1)
        return pooled_BE

    def layer_of(self, name: str) -> int:
        first, _, rest = name.partition(".")
        if first == "blocks":
            return int(rest.partition(".")[0]) + 1
        return 0 if first in ("patch_embed", "cls_token", "pos_embed", "norm_pre") else self.layers - 1

    def resized(self, name: str, tensor: Tensor, place: Tensor) -> Tensor | None:
        """Resize a position table as at run time."""
        if tensor.ndim != 3 or tensor.shape[::2] != place.shape[::2]:
            return None
        if name == "time_embed":
            return positions_in_time(tensor, place.shape[1])
        return table_of_square(tensor, place.shape[1], "bicubic") if name == "pos_embed" else None

    def _embed(self, frames_BCTHW: Tensor) -> Tensor:
        grid_BthwD = self.patch_embed(frames_BCTHW)
        batch, frames, rows, columns, dim = grid_BthwD.shape
        class_11D, table_1nD = torch.split(self.pos_embed, [1, self.pos_embed.shape[1] - 1], dim=1)
        grid_BthwD = grid_BthwD + positions_in_space(table_1nD, rows, columns, "bicubic").unsqueeze(1)
        class_Bt1D = (self.cls_token + class_11D).expand(batch, frames, 1, dim)
        return torch.cat((class_Bt1D, grid_BthwD.flatten(2, 3)), dim=2)

    def _run(self, block: nn.Module, *arguments: Tensor | bool) -> Any:
        return run_block(block, *arguments, recomputes=self.spec.activation_checkpointing)


class MessageBlock(TransformerBlock):
    """A pre-LN block with messages between frames; each block computes its own messages."""

    def __init__(
        self, dim: int, heads: int, mlp_dim: int, drop_path: float, activation: Activation, norm_eps: float
    ) -> None:
        super().__init__(dim, heads, mlp_dim, drop_path, activation, norm_eps)
        self.message_fc = nn.Linear(dim, dim)
        self.message_norm = nn.LayerNorm(dim, eps=norm_eps)
        self.message_attn = Attention(dim, heads)

    def forward(self, tokens_BtLD: Tensor, class_only: bool = False) -> Tensor:
        """Return all tokens of each frame, or only the first if `class_only`."""
        clips, frames, length, _ = tokens_BtLD.shape
        messages_Bt1D = self.message_fc(tokens_BtLD[:, :, :1])
        messages_Bt1D = messages_Bt1D + self.drop_path(self.message_attn(self.message_norm(messages_Bt1D), frames))
        tokens_NMD = torch.cat((tokens_BtLD, messages_Bt1D), dim=2).flatten(0, 1)
        learnt_BtLD: Tensor = self.forward_first(tokens_NMD, 1 if class_only else length).unflatten(0, (clips, frames))
        return learnt_BtLD
