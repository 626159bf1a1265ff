"""The settings of CLIP's text encoder."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveInt, model_validator

from trichord.pretrain.backbones.spec import TextBackboneSpec


class ClipTextSpec(TextBackboneSpec):
    """CLIP's text encoder; by default that of CLIP ViT-B."""

    builds: ClassVar[str] = "trichord.pretrain.backbones.clip_text.model:ClipText"
    takes_clip_weights: ClassVar[bool] = True

    kind: Literal["clip"] = "clip"
    dim: PositiveInt = 512
    depth: PositiveInt = 12
    heads: PositiveInt = 8
    joint_dim: PositiveInt = 512  # of the space that text shares with video
    vocabulary: PositiveInt = 49408
    length: PositiveInt = 77  # of the longest text, in tokens with its start and end
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"

    @model_validator(mode="after")
    def _is_possible(self) -> ClipTextSpec:
        if self.dim % self.heads:
            raise ValueError(f"expected dim to be a multiple of heads, found dim {self.dim} and heads {self.heads}")
        return self
