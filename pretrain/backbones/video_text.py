"""Video and text in one joint space: CLIP (Radford et al. 2021) and X-CLIP (Ni et al. 2022) with the layout of their
released files, or any other video backbone with any text encoder.

X-CLIP's video-specific prompts (Ni et al. 2022, section 3.3) add features of the video to each text's vector: texts
attend to the video's patch tokens, averaged over frames, and not to each other.
Legend: B clips, C colours, T frames, H rows and W columns of pixels; t steps or frames and n places of tokens, D
features of a token; K texts of L tokens, E features of the joint space; H heads, F = E / H; of audio, T frames and M
mel filters.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from trichord.pretrain.backbones.base import AudioBackbone, Backbone, Encoder, TextBackbone
from trichord.pretrain.layers.transformer import Mlp, attend, draw_by_width

HIGHEST_SCALE = 100.0
CLIP_SCALE = 1 / 0.07
_HEAD_DIM = 64


class EncodedClips(NamedTuple):
    """Encoded clips, ready to be compared with texts."""

    unit_BE: Tensor
    grid_BtnD: Tensor | None  # what prompts attend to; None without prompts


class Scale(nn.Module):
    """The factor of cosines, learnt as its logarithm. It is a module, as ZeRO 3 gathers weights in `forward`."""

    def __init__(self, first: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.full((1,), log(first)))  # not 0-dim, which DeepSpeed cannot clip

    def forward(self) -> Tensor:
        """Return the factor, limited to HIGHEST_SCALE; the gradient passes at the limit, so it can decrease again."""
        beyond = (self.log - log(HIGHEST_SCALE)).clamp(min=0).detach()
        return (self.log - beyond).exp()


class Bias(nn.Module):
    """The bias that the sigmoid loss adds to scaled cosines. It is a module for the same reason as `Scale`."""

    def __init__(self, first: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.full((1,), first))

    def forward(self) -> Tensor:
        """Return the bias."""
        return self.value * 1.0


class VideoText(nn.Module):
    """Computes cosine similarities of videos and texts. With prompts, text vectors depend on the video."""

    def __init__(
        self,
        backbone: Backbone,
        text: TextBackbone,
        *,
        joint_dim: int | None = None,
        has_prompts: bool = False,
        first_scale: float = CLIP_SCALE,
        first_bias: float | None = None,
    ) -> None:
        super().__init__()
        self.dim = joint_dim or text.dim
        self.backbone, self.text = backbone, text
        self.proj = projection(backbone, self.dim)
        self.text_proj = projection(text, self.dim)
        self.prompts: VideoPrompts | None = None
        if has_prompts:
            self.prompts = VideoPrompts(backbone.place_dim, self.dim, max(1, self.dim // _HEAD_DIM))
        self.scale = Scale(first_scale)
        self.bias = None if first_bias is None else Bias(first_bias)

    @property
    def has_prompts(self) -> bool:
        """Whether text vectors depend on the video, so that they cannot be cached for all videos."""
        return self.prompts is not None

    def encode_video(self, frames_BCTHW: Tensor) -> EncodedClips:
        """Encode normalised frames."""
        if self.prompts is None:
            return EncodedClips(to_unit(self.proj(self.backbone(frames_BCTHW, pooled_only=True).pooled_BD)), None)
        pooled_BD, grid_BtnD = self.backbone.encode_grid(frames_BCTHW)
        return EncodedClips(to_unit(self.proj(pooled_BD)), grid_BtnD)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Encode texts as text_KE, not normalised because prompts take the raw vectors."""
        return self.encode_tokens(self.text.tokenise(texts).to(self.scale.log.device))

    def encode_tokens(self, tokens_KL: Tensor) -> Tensor:
        """Encode tokenised texts as text_KE, not normalised."""
        text_KE: Tensor = self.text_proj(self.text(tokens_KL))
        return text_KE

    def cosines(self, clips: EncodedClips, text_KE: Tensor) -> Tensor:
        """Return cosines_BK of videos with texts, in float32: scaled by 100, bfloat16 would be off by 0.4."""
        if self.prompts is not None:
            assert clips.grid_BtnD is not None
            text_KE = self.prompts(text_KE, clips.grid_BtnD)  # now one per video: BKE
        unit = to_unit(text_KE)
        with torch.autocast(unit.device.type, enabled=False):
            return (unit @ clips.unit_BE.unsqueeze(2)).squeeze(2) if unit.dim() == 3 else clips.unit_BE @ unit.T


class AudioTower(nn.Module):
    """An audio encoder with a projection into the embedding space."""

    def __init__(self, backbone: AudioBackbone, dim: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.proj = projection(backbone, dim)

    def forward(self, audio_BTM: Tensor) -> Tensor:
        """Return unit_BE."""
        return to_unit(self.proj(self.backbone(audio_BTM, pooled_only=True).pooled_BD))


def projection(encoder: Encoder, dim: int) -> nn.Module:
    """Return the projection of an encoder into the joint space; the identity for a joint encoder of this width."""
    if encoder.is_joint and encoder.dim == dim:
        return nn.Identity()
    linear = nn.Linear(encoder.dim, dim, bias=False)
    nn.init.normal_(linear.weight, std=encoder.dim**-0.5)
    return linear


def to_unit(rows_XE: Tensor) -> Tensor:
    """Normalise rows to length 1, in float32: a norm in bfloat16 would be off by 1/400."""
    return normalize(rows_XE.to(torch.promote_types(rows_XE.dtype, torch.float32)), dim=-1)


_NORM_EPS = 1e-5
_INITIAL_SHARE = 0.1


class CrossAttention(nn.Module):
    """Cross-attention with texts as queries and places as keys and values."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, text_BKE: Tensor, places_BnE: Tensor) -> Tensor:
        projections = ((self.q_proj, text_BKE), (self.k_proj, places_BnE), (self.v_proj, places_BnE))
        outputs_BKHF = attend(*(project(tokens).unflatten(-1, (self.heads, -1)) for project, tokens in projections))
        mixed_BKE: Tensor = self.proj(outputs_BKHF.flatten(2))
        return mixed_BKE


class PromptBlock(nn.Module):
    """A pre-LN block of cross-attention and an MLP."""

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
    """Computes a vector of each text for each video."""

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
        """Initialise all weights; the prompts are added with a factor of 0.1 at first."""
        draw_by_width(self)
        nn.init.constant_(self.share, _INITIAL_SHARE)

    def forward(self, text_KE: Tensor, grid_BtnD: Tensor) -> Tensor:
        """Return text_BKE."""
        places_BnE = self.norm(self.frame_proj(self.frame_norm(grid_BtnD)).mean(dim=1))
        text_BKE = text_KE.expand(len(grid_BtnD), *text_KE.shape)
        learnt_BKE = text_BKE
        for block in self.blocks:
            learnt_BKE = block(learnt_BKE, places_BnE)
        return text_BKE + self.share * learnt_BKE
