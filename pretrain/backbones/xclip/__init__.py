"""The settings of an X-CLIP, or of a CLIP that processes each frame separately."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from trichord.pretrain.backbones.spec import BackboneSpec, Size

_CLIP = "CLIP (OpenAI, open_clip)"
_XCLIP = f"X-CLIP (released .pth, Hugging Face); starts from {_CLIP}"


class XClipSpec(BackboneSpec):
    """X-CLIP; by default a B/16 of 8 frames. Without messages and integration it is CLIP averaged over frames."""

    builds: ClassVar[str] = "trichord.pretrain.backbones.xclip.model:XClip"
    file_names: ClassVar[str] = "trichord.pretrain.backbones.xclip.names:FAMILIES"

    kind: Literal["xclip"] = "xclip"
    drop_path: float = Field(default=0.0, ge=0, lt=1)  # as released
    dim: PositiveInt = 768
    """Number of features of a token in the encoder of frames."""
    depth: PositiveInt = 12
    """Number of transformer blocks of the encoder of frames."""
    heads: PositiveInt = 12
    """Number of attention heads in the encoder of frames, which must divide `dim`."""
    mlp_ratio: float = Field(default=4.0, gt=0)
    """Width of the MLP in each block of the encoder of frames, as a multiple of `dim`."""
    patch: PositiveInt = 16
    """Height and width of a patch in pixels; sizes of views must be multiples of it."""
    joint_dim: PositiveInt = 512
    """Number of features of the space that video shares with text, which must fit the text encoder of the same
    model."""
    joint_heads: PositiveInt = 8
    """Number of attention heads in the blocks over frames, which must divide `joint_dim`."""
    messages: bool = True
    """Exchange messages between frames in every block, as X-CLIP does; false encodes each frame separately, as CLIP
    does."""
    integration_depth: NonNegativeInt = 1
    """Number of transformer blocks over frames; 0 averages the frames instead."""
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    """Activation of the MLPs: `quick_gelu` for OpenAI's weights, `gelu` for most of open_clip's."""

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

    @classmethod
    def sizes(cls) -> Mapping[str, Size]:
        def size(
            weights: str, giga_macs: float | None, patch: int, frames: int = 8, size: int = 224, **more: object
        ) -> Size:
            return Size(cls.model_validate({"patch": patch, "frames": frames, "size": size} | more), weights, giga_macs)

        alone = {"messages": False, "integration_depth": 0}  # each frame separately
        large = {"dim": 1024, "depth": 24, "heads": 16, "joint_dim": 768, "joint_heads": 12}
        return {
            # As published, minus the prompts of 400 texts, which the paper counts and a backbone does not have.
            "xclip-b32-8": size(_XCLIP, 39 - 2.3, 32),
            "xclip-b32-16": size(_XCLIP, 75 - 2.5, 32, 16),
            "xclip-b16-8": size(_XCLIP, 145 - 3.1, 16),
            "xclip-b16-16": size(_XCLIP, 287 - 3.7, 16, 16),
            "xclip-b16-32": size(_XCLIP, 571 - 4.9, 16, 32),
            "xclip-l14-8": size(_XCLIP, 658 - 7.2, 14, **large),
            "xclip-l14-336-16": size(_XCLIP, 3086 - 14.0, 14, 16, size=336, **large),
            "clip-b32": size(_CLIP, None, 32, **alone),
            "clip-b16": size(_CLIP, None, 16, **alone),
            "clip-l14": size(_CLIP, None, 14, **large, **alone),
            "clip-l14-336": size(_CLIP, None, 14, size=336, **large, **alone),
        }
