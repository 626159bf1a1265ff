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
    file_names: ClassVar[str] = "trichord.pretrain.backbones.vtn.names:FAMILIES"

    kind: Literal["vtn"] = "vtn"
    frames: PositiveInt = 16
    drop_path: float = Field(default=0.0, ge=0, lt=1)  # of the frame network
    frame_backbone: str = "vit_base_patch16_224"  # any model name of timm; init_from loads its weights
    depth: PositiveInt = 3  # layers over frames
    heads: PositiveInt = 12
    mlp_ratio: float = Field(default=4.0, gt=0)
    attention: Literal["local", "full"] = "local"  # among frames; the class token is always global
    window: PositiveInt = 18  # frames that a frame attends to: half before it, half after
    positions: int = Field(default=288, ge=4)  # table entries: frames, then the class token, then padding (unused)
    position_step: PositiveInt = 1  # from one frame to the next; smaller for clips that would not fit
    dropout: float = Field(default=0.1, ge=0, lt=1)  # in the layers over frames

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
