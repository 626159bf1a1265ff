"""What a recipe says of a VideoMamba."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt, model_validator

from trichord.pretrain.backbones.spec import Spec


class VideoMambaSpec(Spec):
    """VideoMamba, as it stands the middle size with patches of 16 pixels and 8 frames."""

    kind: Literal["videomamba"] = "videomamba"
    dim: PositiveInt = 576
    depth: PositiveInt = 32
    patch: PositiveInt = 16

    @property
    def size_step(self) -> int:
        return self.patch

    @model_validator(mode="after")
    def _is_possible(self) -> VideoMambaSpec:
        if self.size % self.patch:
            raise ValueError(f"expected size to be a multiple of patch, found size {self.size} and patch {self.patch}")
        return self
