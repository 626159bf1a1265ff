"""The settings of a VTN."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from trichord.pretrain.backbones.spec import FROM_IMAGES, BackboneSpec, Size


class VtnSpec(BackboneSpec):
    """VTN; by default the released one: a ViT-B/16 for each frame and three layers over frames."""

    builds: ClassVar[str] = "trichord.pretrain.backbones.vtn.model:Vtn"
    file_names: ClassVar[str] = "trichord.pretrain.backbones.vtn.model:FAMILIES"

    kind: Literal["vtn"] = "vtn"
    frames: PositiveInt = 16
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Probability of skipping the last block's residual branch in the frame network in training; it grows from 0 in the
    first block."""
    frame_backbone: str = "vit_base_patch16_224"
    """Image network for each frame: the name of a model of timm, whose weights `init_from` loads."""
    depth: PositiveInt = 3
    """Number of Longformer layers over frames."""
    heads: PositiveInt = 12
    """Number of attention heads in the layers over frames, which must divide the features of the frame network."""
    mlp_ratio: float = Field(default=4.0, gt=0)
    """Width of the MLP in the layers over frames, as a multiple of their features."""
    attention: Literal["local", "full"] = "local"
    """Attention among frames: `local` within `window`, `full` among all of them; the class token always attends to
    all."""
    window: PositiveInt = 18
    """Number of frames that a frame attends to under local attention, half of them before it and half after; even."""
    positions: int = Field(default=288, ge=4)
    """Number of entries of the position table: those of frames, that of the class token, and an unused one."""
    position_step: PositiveInt = 1
    """Distance between the positions of successive frames; it shrinks for clips that would not fit in the table."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout rate in the layers over frames."""

    @property
    def size_step(self) -> int:
        patch = re.search(r"patch(\d+)", self.frame_backbone)
        return int(patch[1]) if patch else 1

    @model_validator(mode="after")
    def _is_possible(self) -> VtnSpec:
        if self.window % 2:
            raise ValueError(f"expected an even window, half before a frame and half after, found {self.window}")
        return self

    @classmethod
    def sizes(cls) -> Mapping[str, Size]:
        # 250 times torchvision's figure for a ViT-B/16; the published 4218 omits the attention scores.
        return {"vtn-vit-b": Size(cls(frames=250), f"VTN (released .pyth); {FROM_IMAGES}", 250 * 17.564)}
