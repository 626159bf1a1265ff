"""What the language model looks at: tokens of a video's clips, mapped to its width.

Legend: B samples, n clips of each, N = Bn, C colours, T frames, H and W pixels, L tokens of a clip, M = nL of a video,
D features of the backbone, E of the language model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trichord.core.errors import UserError
from trichord.finetune.tasks.base import Trunk
from trichord.finetune.tasks.captioning.spec import CaptionSpec
from trichord.pretrain.backbones.base import Backbone


class Memory(Trunk):
    """A backbone, and its tokens made ready to be looked at."""

    def __init__(self, backbone: Backbone, spec: CaptionSpec, reads_tokens: bool = False) -> None:
        super().__init__(backbone, spec.frozen, spec.trained)
        width = spec.language.dim
        self.spec, self.reads_tokens = spec, reads_tokens
        self.norm = nn.LayerNorm(backbone.dim) if spec.memory.layer_norm else None
        self.map = nn.Linear(backbone.dim, width) if spec.memory.mapping == "linear" else None
        if self.map is None and backbone.dim != width:
            raise UserError(
                f"objective.memory.mapping=none needs as many features on both sides: the backbone has {backbone.dim}, "
                f"the language model {width}. Set objective.memory.mapping=linear"
            )
        # Cross-attention does not know which clip comes first, and a clip's own tokens do not say.
        self.clip_embed = nn.Parameter(torch.zeros(spec.clip_count, width)) if spec.clip_count > 1 else None

    def tokens(self, clips: Sequence[Tensor]) -> Tensor:
        """Give tokens_BnLD of uint8 frames_BCTHW, one tensor for each clip of a video."""
        frames_NCTHW = self.spec.normalisation(torch.cat(list(clips)))
        with self.looking():
            pooled_ND, grid_NtnD = self.backbone(frames_NCTHW, pooled_only=not self.spec.needs_grid)
        tokens_NLD = pooled_ND[:, None]
        if self.spec.needs_grid:
            tokens_NLD = torch.cat([tokens_NLD, grid_NtnD.flatten(1, 2)], dim=1)
        return torch.stack(tokens_NLD.chunk(len(clips)), dim=1)

    def forward(self, clips: Sequence[Tensor]) -> Tensor:
        """Give memory_BME of a video's clips, or of their tokens where these are read."""
        tokens_BnLD = clips[0] if self.reads_tokens else self.tokens(clips)
        if self.norm is not None:
            tokens_BnLD = self.norm(tokens_BnLD)
        seen_BnLE = tokens_BnLD if self.map is None else self.map(tokens_BnLD)
        if self.clip_embed is not None:
            seen_BnLE = seen_BnLE + self.clip_embed[:, None]
        memory_BME: Tensor = seen_BnLE.flatten(1, 2)
        return memory_BME
