"""X-CLIP's video-specific prompts (Ni et al. 2022, section 3.3): what a video shows is added to what a text says.

Texts look at the video's patch tokens, averaged over frames, and not at each other.
Legend: B clips, K texts, t frames, n places, D features of a patch token, E of the space shared with text; H heads,
F = E / H.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trichord.pretrain.layers.attention import attend
from trichord.pretrain.layers.first_weights import draw_by_width
from trichord.pretrain.layers.mlp import Mlp

_NORM_EPS = 1e-5
_FIRST_SHARE = 0.1


class CrossAttention(nn.Module):
    """Texts ask, places answer."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, text_BKE: Tensor, places_BnE: Tensor) -> Tensor:
        asked = ((self.q_proj, text_BKE), (self.k_proj, places_BnE), (self.v_proj, places_BnE))
        answers_BKHF = attend(*(project(tokens).unflatten(-1, (self.heads, -1)) for project, tokens in asked))
        mixed_BKE: Tensor = self.proj(answers_BKHF.flatten(2))
        return mixed_BKE


class PromptBlock(nn.Module):
    """Cross-attention, then a perceptron."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.cross_attn = CrossAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.mlp = Mlp(dim, 4 * dim, "quick_gelu")

    def forward(self, text_BKE: Tensor, places_BnE: Tensor) -> Tensor:
        text_BKE = text_BKE + self.cross_attn(self.norm1(text_BKE), places_BnE)
        learnt_BKE: Tensor = self.mlp(self.norm2(text_BKE))
        return text_BKE + learnt_BKE


class VideoPrompts(nn.Module):
    """Gives each text a vector for each video."""

    def __init__(self, frame_dim: int, dim: int, heads: int, depth: int = 2) -> None:
        super().__init__()
        self.frame_norm = nn.LayerNorm(frame_dim, eps=_NORM_EPS)
        self.frame_proj = nn.Linear(frame_dim, dim, bias=False)
        self.norm = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.blocks = nn.ModuleList(PromptBlock(dim, heads) for _ in range(depth))
        self.share = nn.Parameter(torch.empty(dim))
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw every weight anew; a tenth of what is learnt counts at first."""
        draw_by_width(self)
        nn.init.constant_(self.share, _FIRST_SHARE)

    def forward(self, text_KE: Tensor, grid_BtnD: Tensor) -> Tensor:
        """Give text_BKE."""
        places_BnE = self.norm(self.frame_proj(self.frame_norm(grid_BtnD)).mean(dim=1))
        text_BKE = text_KE.expand(len(grid_BtnD), *text_KE.shape)
        learnt_BKE = text_BKE
        for block in self.blocks:
            learnt_BKE = block(learnt_BKE, places_BnE)
        return text_BKE + self.share * learnt_BKE
