"""What there is to say of CLIP's text encoder."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator


class ClipTextSpec(BaseModel):
    """CLIP's text encoder, as it stands the one beside a ViT-B."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["clip"] = "clip"
    dim: PositiveInt = 512
    depth: PositiveInt = 12
    heads: PositiveInt = 8
    joint_dim: PositiveInt = 512  # of the space that text shares with video
    vocabulary: PositiveInt = 49408
    length: PositiveInt = 77  # of the longest text, in tokens with its start and end
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    activation_checkpointing: bool = False

    @model_validator(mode="after")
    def _is_possible(self) -> ClipTextSpec:
        if self.dim % self.heads:
            raise ValueError(f"expected dim to be a multiple of heads, found dim {self.dim} and heads {self.heads}")
        return self
