"""The settings of Karpathy's networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from trichord.pretrain.backbones.spec import NONE_RELEASED, BackboneSpec, Size

FEWEST_OF_SLOW = 10  # the minimum for slow fusion's three convolutions in time


class FrameFusionSpec(BackboneSpec):
    """A convolutional network for frames with four ways of fusing them."""

    builds: ClassVar[str] = "trichord.pretrain.backbones.frame_fusion.model:FrameFusion"

    kind: Literal["frame_fusion"] = "frame_fusion"
    fusion: Literal["single", "early", "late", "slow"] = "slow"
    """Where frames are fused: `single` encodes each separately and averages them; `early` fuses them in the first
    convolution; `late` fuses the first and the last frame in the first fully connected layer; `slow` fuses gradually in
    the first three convolutions."""
    frames: PositiveInt = 10
    """Number of frames of a clip; a clip must have a multiple of it for `early` fusion, and at least 10 frames for
    `slow`."""
    size: PositiveInt = 170
    """Height and width of a view in pixels; others are accepted."""
    widths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (96, 256, 384, 384, 256)
    """Number of channels of each of the five convolutions."""
    dim: PositiveInt = 4096
    """Number of features of the two fully connected layers, and so of the pooled vector."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Dropout rate before each fully connected layer."""
    drop_path: Literal[0] = 0
    """Always 0: the network has no residual branches that could be skipped."""

    @property
    def frame_step(self) -> int:
        return self.frames if self.fusion == "early" else 1

    @property
    def fewest_frames(self) -> int:
        return {"late": 2, "slow": FEWEST_OF_SLOW}.get(self.fusion, self.frame_step)

    @model_validator(mode="after")
    def _is_possible(self) -> FrameFusionSpec:
        if self.frames < self.fewest_frames:
            raise ValueError(f"fusion '{self.fusion}' needs at least {self.fewest_frames} frames, found {self.frames}")
        return self

    @classmethod
    def sizes(cls) -> Mapping[str, Size]:
        return {
            f"frame-fusion-{each}": Size(cls.model_validate({"fusion": each}), NONE_RELEASED)
            for each in ("single", "early", "late", "slow")
        }
