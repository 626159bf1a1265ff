"""CLIP's text encoder (Radford et al. 2021): a causal transformer read off at the token that ends the text.

Legend: K texts, L tokens of each, D features of a token, E of the space shared with video.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pretrain.backbones.clip_text_spec import ClipTextSpec
from pretrain.layers.block import Block
from pretrain.layers.first_weights import draw_by_width

_NORM_EPS = 1e-5
_TOKEN_STD, _POSITION_STD = 0.02, 0.01


class ClipText(nn.Module):
    """Tokens to one vector of each text, whose end is its token of the highest number, as CLIP's tokenizer has it."""

    def __init__(self, spec: ClipTextSpec) -> None:
        super().__init__()
        self.spec = spec
        self.token_embed = nn.Embedding(spec.vocabulary, spec.dim)
        self.pos_embed = nn.Parameter(torch.empty(1, spec.length, spec.dim))
        self.blocks = nn.ModuleList(
            Block(spec.dim, spec.heads, 4 * spec.dim, 0.0, spec.activation, _NORM_EPS, is_causal=True)
            for _ in range(spec.depth)
        )
        self.norm = nn.LayerNorm(spec.dim, eps=_NORM_EPS)
        self.proj = nn.Linear(spec.dim, spec.joint_dim, bias=False)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw every weight anew."""
        draw_by_width(self)
        nn.init.normal_(self.token_embed.weight, std=_TOKEN_STD)
        nn.init.normal_(self.pos_embed, std=_POSITION_STD)

    def forward(self, tokens_KL: Tensor) -> Tensor:
        """Give pooled_KE, not normalised."""
        length = tokens_KL.shape[1]
        if length > self.spec.length:
            raise ValueError(f"expected texts of at most {self.spec.length} tokens, found {length}")
        tokens_KLD = self.token_embed(tokens_KL) + self.pos_embed[:, :length]
        for block in self.blocks:
            tokens_KLD = block(tokens_KLD)
        ends_K11 = tokens_KL.argmax(dim=1).view(-1, 1, 1)
        last_KD = tokens_KLD.take_along_dim(ends_K11, dim=1).squeeze(1)
        pooled_KE: Tensor = self.proj(self.norm(last_KD))
        return pooled_KE
