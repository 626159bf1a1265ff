"""What a recipe says of an X-CLIP, or of a CLIP that sees each frame alone."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from trichord.pretrain.backbones.spec import Spec


class XClipSpec(Spec):
    """X-CLIP, as it stands a B/16 of 8 frames; without messages and integration it is CLIP averaged over frames."""

    kind: Literal["xclip"] = "xclip"
    drop_path: float = Field(default=0.0, ge=0, lt=1)  # as released
    dim: PositiveInt = 768
    depth: PositiveInt = 12
    heads: PositiveInt = 12
    mlp_ratio: float = Field(default=4.0, gt=0)
    patch: PositiveInt = 16
    joint_dim: PositiveInt = 512  # of the space that video shares with text
    joint_heads: PositiveInt = 8
    messages: bool = True  # frames tell each other in every block what they see
    integration_depth: NonNegativeInt = 1  # blocks over the frames; none of them averages the frames
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"  # OpenAI's weights want the first, most of open_clip's not

    @property
    def size_step(self) -> int:
        return self.patch

    @model_validator(mode="after")
    def _is_possible(self) -> XClipSpec:
        for dim, heads in (("dim", "heads"), ("joint_dim", "joint_heads")):
            if getattr(self, dim) % getattr(self, heads):
                raise ValueError(
                    f"expected {dim} to be a multiple of {heads}, "
                    f"found {dim} {getattr(self, dim)} and {heads} {getattr(self, heads)}"
                )
        if self.size % self.patch:
            raise ValueError(f"expected size to be a multiple of patch, found size {self.size} and patch {self.patch}")
        return self
