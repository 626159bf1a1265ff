"""The settings of a TimeSformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from trichord.pretrain.backbones.spec import FROM_IMAGES, BackboneSpec, Size

_RELEASED = "TimeSformer (released .pyth, Hugging Face)"


class TimeSformerSpec(BackboneSpec):
    """TimeSformer; by default a ViT-B/16 of 8 frames with divided attention."""

    builds: ClassVar[str] = "trichord.pretrain.backbones.timesformer.model:TimeSformer"
    file_names: ClassVar[str] = "trichord.pretrain.backbones.timesformer.model:FAMILIES"
    hugging_face: ClassVar[str] = "trichord.pretrain.backbones.timesformer.model:as_hugging_face"

    kind: Literal["timesformer"] = "timesformer"
    dim: PositiveInt = 768
    """Number of features of a token."""
    depth: PositiveInt = 12
    """Number of transformer blocks."""
    heads: PositiveInt = 12
    """Number of attention heads, which must divide `dim`."""
    mlp_ratio: float = Field(default=4.0, gt=0)
    """Width of the MLP in each block, as a multiple of `dim`."""
    patch: PositiveInt = 16
    """Height and width of a patch in pixels; sizes of views must be multiples of it."""
    attention: Literal["divided", "joint", "space"] = "divided"
    """`divided` attends along time and then within each frame, `joint` among all patches of all frames, `space` within
    each frame only."""
    positions: Literal["none", "space", "space-time"] = "space-time"
    """Position tables that are added to the patches: one for space and one for time, the one for space only, or
    none."""
    first_weights: Literal["published", "by_width"] = "published"
    """Random initial weights: `published` as released, with a standard deviation of 0.02, which suits a width of 768,
    and with temporal attention that adds nothing at first; `by_width` as 1 / sqrt(inputs) for all maps, temporal ones
    included, which narrow networks need to distinguish clips."""

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
            raise ValueError("attention 'space' processes each frame separately: expected positions 'space' or 'none'")
        return self

    @classmethod
    def sizes(cls) -> Mapping[str, Size]:
        return {
            "timesformer-base": Size(cls(), f"{_RELEASED}, SVT; {FROM_IMAGES}", 196),
            "timesformer-hr": Size(cls(frames=16, size=448), _RELEASED, 1703),
            "timesformer-large": Size(cls(frames=96), _RELEASED, 2380),
            "timesformer-large-64": Size(cls(frames=64), _RELEASED, 1579),
        }
