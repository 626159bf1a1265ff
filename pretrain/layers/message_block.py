"""X-CLIP's block: a frame's class token becomes a message, messages attend to each other, then each joins its frame.

Ni et al. 2022, "Expanding Language-Image Pretrained Models for General Video Recognition", section 3.2: cross-frame
fusion attention, then intra-frame diffusion attention.
Legend: B clips, t frames, N = B x t, L tokens of a frame, M = L + 1, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trichord.pretrain.layers.attention import Attention
from trichord.pretrain.layers.block import Block
from trichord.pretrain.layers.mlp import Activation


class MessageBlock(Block):
    """A pre-LN block whose messages live for its own length: the next block makes new ones."""

    def __init__(
        self, dim: int, heads: int, mlp_dim: int, drop_path: float, activation: Activation, norm_eps: float
    ) -> None:
        super().__init__(dim, heads, mlp_dim, drop_path, activation, norm_eps)
        self.message_fc = nn.Linear(dim, dim)
        self.message_norm = nn.LayerNorm(dim, eps=norm_eps)
        self.message_attn = Attention(dim, heads)

    def forward(self, tokens_BtLD: Tensor, class_only: bool = False) -> Tensor:
        """Give all tokens of each frame, or its first alone."""
        clips, frames, length, _ = tokens_BtLD.shape
        messages_Bt1D = self.message_fc(tokens_BtLD[:, :, :1])
        messages_Bt1D = messages_Bt1D + self.drop_path(self.message_attn(self.message_norm(messages_Bt1D), frames))
        tokens_NMD = torch.cat((tokens_BtLD, messages_Bt1D), dim=2).flatten(0, 1)
        learnt_BtLD: Tensor = self.answer(tokens_NMD, 1 if class_only else length).unflatten(0, (clips, frames))
        return learnt_BtLD
