"""The settings of a VideoMamba."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import PositiveInt, model_validator

from trichord.pretrain.backbones.spec import BackboneSpec, Size

_RELEASED = "VideoMamba (released .pth: Kinetics-400, SSv2, ImageNet"


class VideoMambaSpec(BackboneSpec):
    """VideoMamba; by default the middle size with patches of 16 pixels and 8 frames."""

    builds: ClassVar[str] = "trichord.pretrain.backbones.videomamba.model:VideoMamba"
    file_names: ClassVar[str] = "trichord.pretrain.backbones.videomamba.model:FAMILIES"

    kind: Literal["videomamba"] = "videomamba"
    dim: PositiveInt = 576
    """Number of features of a token."""
    depth: PositiveInt = 32
    """Number of Mamba blocks."""
    patch: PositiveInt = 16
    """Height and width of a patch in pixels; sizes of views must be multiples of it."""

    @property
    def size_step(self) -> int:
        return self.patch

    @model_validator(mode="after")
    def _is_possible(self) -> VideoMambaSpec:
        if self.size % self.patch:
            raise ValueError(f"expected size to be a multiple of patch, found size {self.size} and patch {self.patch}")
        return self

    @classmethod
    def sizes(cls) -> Mapping[str, Size]:
        return {
            f"videomamba-{name}-{frames}": _size(cls(dim=dim, depth=depth, frames=frames), weights, image_giga_macs)
            for name, dim, depth, image_giga_macs, weights in (
                ("tiny", 192, 24, 1.1, f"{_RELEASED})"),
                ("small", 384, 24, 4.3, f"{_RELEASED})"),
                ("middle", 576, 32, 12.7, f"{_RELEASED}; unmasking)"),
            )
            for frames in (8, 16, 32, 64)
        }


def _size(spec: VideoMambaSpec, weights: str, image_giga_macs: float) -> Size:
    """Return a size with the cost of its frames.

    The published figure, for one image, includes only patches and the input and output projections. The projections to
    steps, B and C are added, and 9 operations for each step, channel and state of a scan.
    """
    rank = -(-spec.dim // 16)
    more_of_a_token = 2 * 2 * spec.dim * (2 * rank + 2 * 16 + 9 / 2 * 16)
    scans = (1 + spec.frames * 196) * spec.depth * more_of_a_token / 1e9
    return Size(spec, weights, spec.frames * image_giga_macs + scans)
