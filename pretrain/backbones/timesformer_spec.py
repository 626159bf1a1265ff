"""What a recipe says of a TimeSformer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from trichord.pretrain.backbones.spec import Spec


class TimeSformerSpec(Spec):
    """TimeSformer, as it stands a ViT-B/16 of 8 frames with divided attention."""

    kind: Literal["timesformer"] = "timesformer"
    dim: PositiveInt = 768
    depth: PositiveInt = 12
    heads: PositiveInt = 12
    mlp_ratio: float = Field(default=4.0, gt=0)
    patch: PositiveInt = 16
    attention: Literal["divided", "joint", "space"] = "divided"
    positions: Literal["none", "space", "space-time"] = "space-time"
    # published: as released, a deviation of 0.02 that suits a width of 768; attention in time adds nothing at first.
    # by_width: 1 / sqrt(inputs) for all maps, those in time as well, which a narrow network needs to tell clips apart.
    first_weights: Literal["published", "by_width"] = "published"

    @property
    def size_step(self) -> int:
        return self.patch

    @model_validator(mode="after")
    def _is_possible(self) -> TimeSformerSpec:
        if self.dim % self.heads:
            raise ValueError(f"expected dim to be a multiple of heads, found dim {self.dim} and heads {self.heads}")
        if self.size % self.patch:
            raise ValueError(f"expected size to be a multiple of patch, found size {self.size} and patch {self.patch}")
        if self.attention == "space" and self.positions == "space-time":
            raise ValueError("attention 'space' looks at each frame alone: expected positions 'space' or 'none'")
        return self
