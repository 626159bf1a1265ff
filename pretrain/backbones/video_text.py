"""Video and text in one space: CLIP (Radford et al. 2021) and X-CLIP (Ni et al. 2022) whole, as their files hold them.

Legend: B clips, C colours, T frames, H rows and W columns of pixels; K texts of L tokens, E features of the space.
"""

from __future__ import annotations

from math import log

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pretrain.backbones.clip_text import ClipText
from pretrain.backbones.clip_text_spec import ClipTextSpec
from pretrain.backbones.video_prompts import VideoPrompts
from pretrain.backbones.xclip import XClip
from pretrain.backbones.xclip_spec import XClipSpec

_FIRST_SCALE = 1 / 0.07


class VideoText(nn.Module):
    """Says how well texts suit videos. With prompts the texts are seen in the light of each video."""

    def __init__(self, video: XClipSpec, text: ClipTextSpec, has_prompts: bool) -> None:
        super().__init__()
        if video.joint_dim != text.joint_dim:
            raise ValueError(f"expected one joint_dim, found {video.joint_dim} for video and {text.joint_dim} for text")
        self.backbone = XClip(video)
        self.text = ClipText(text)
        self.prompts = VideoPrompts(video.dim, video.joint_dim, video.joint_heads) if has_prompts else None
        self.log_scale = nn.Parameter(torch.full((1,), log(_FIRST_SCALE)))  # not 0-dim, which DeepSpeed cannot clip

    def forward(self, frames_BCTHW: Tensor, tokens_KL: Tensor) -> Tensor:
        """Give logits_BK."""
        class_BtE, grid_BtnD = self.backbone.see(frames_BCTHW, class_only=self.prompts is None)
        video_BE = normalize(self.backbone.integrate(class_BtE), dim=-1)
        text_KE = self.text(tokens_KL)
        if self.prompts is None:
            cosines_BK = video_BE @ normalize(text_KE, dim=-1).T
        else:
            text_BKE = normalize(self.prompts(text_KE, grid_BtnD), dim=-1)
            cosines_BK = (text_BKE @ video_BE.unsqueeze(2)).squeeze(2)
        logits_BK: Tensor = self.log_scale.exp() * cosines_BK
        return logits_BK
