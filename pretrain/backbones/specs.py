"""What a recipe says of a backbone; a class for each family, read without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


class TimeSformerSpec(BaseModel):
    """TimeSformer, as it stands a ViT-B/16 of 8 frames with divided attention."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["timesformer"] = "timesformer"
    dim: PositiveInt = 768
    depth: PositiveInt = 12
    heads: PositiveInt = 12
    mlp_ratio: float = Field(default=4.0, gt=0)
    patch: PositiveInt = 16
    frames: PositiveInt = 8  # of the table of positions in time; clips may have any number
    size: PositiveInt = 224  # of the table of positions in space, in pixels; clips may have any that patches divide
    attention: Literal["divided", "joint", "space"] = "divided"
    positions: Literal["none", "space", "space-time"] = "space-time"
    drop_path: float = Field(default=0.1, ge=0, lt=1)  # of the last block; it grows from 0 in the first
    # published: as released, a deviation of 0.02 that suits a width of 768; attention in time adds nothing at first.
    # by_width: 1 / sqrt(inputs) for all maps, those in time as well, which a narrow network needs to tell clips apart.
    first_weights: Literal["published", "by_width"] = "published"
    activation_checkpointing: bool = False  # forget what happens within a block and compute it again going backward

    @model_validator(mode="after")
    def _is_possible(self) -> TimeSformerSpec:
        if self.dim % self.heads:
            raise ValueError(f"expected dim to be a multiple of heads, found dim {self.dim} and heads {self.heads}")
        if self.size % self.patch:
            raise ValueError(f"expected size to be a multiple of patch, found size {self.size} and patch {self.patch}")
        if self.attention == "space" and self.positions == "space-time":
            raise ValueError("attention 'space' looks at each frame alone: expected positions 'space' or 'none'")
        return self


BackboneSpec = TimeSformerSpec
