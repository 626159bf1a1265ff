"""The settings of a residual network over space and time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from trichord.pretrain.backbones.spec import BackboneSpec, Size


class Resnet3dSpec(BackboneSpec):
    """R(2+1)D or R3D; by default R(2+1)D with 18 layers."""

    builds: ClassVar[str] = "trichord.pretrain.backbones.resnet_3d.model:Resnet3d"
    file_names: ClassVar[str] = "trichord.pretrain.backbones.resnet_3d.model:FAMILIES"

    kind: Literal["resnet_3d"] = "resnet_3d"
    convolutions: Literal["2plus1d", "3d"] = "2plus1d"
    """`2plus1d` convolves in space and then in time, `3d` in both at once."""
    frames: PositiveInt = 16
    size: PositiveInt = 112
    width: PositiveInt = 64
    """Number of channels of the first stage; each later stage doubles it."""
    blocks: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (2, 2, 2, 2)
    """Number of residual blocks of each of the four stages: [2, 2, 2, 2] for 18 layers, [3, 4, 6, 3] for 34."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)

    @classmethod
    def sizes(cls) -> Mapping[str, Size]:
        return {
            "r2plus1d-18": Size(cls(), "R(2+1)D (torchvision; Kinetics-400)", 40.519),
            "r3d-18": Size(cls(convolutions="3d"), "R3D (torchvision; Kinetics-400)", 40.697),
        }
