"""The settings of an AST."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from trichord.pretrain.backbones.spec import AudioBackboneSpec, Size


class AstSpec(AudioBackboneSpec):
    """AST; by default that of AudioSet: a ViT-B/16 with a stride of 10 x 10, for 10.24 s."""

    builds: ClassVar[str] = "trichord.pretrain.backbones.ast.model:Ast"
    file_names: ClassVar[str] = "trichord.pretrain.backbones.ast.model:FAMILIES"

    kind: Literal["ast"] = "ast"
    dim: PositiveInt = 768
    """Number of features of a token."""
    depth: PositiveInt = 12
    """Number of transformer blocks."""
    heads: PositiveInt = 12
    """Number of attention heads, which must divide `dim`."""
    mlp_ratio: float = Field(default=4.0, gt=0)
    """Width of the MLP in each block, as a multiple of `dim`."""
    patch: PositiveInt = 16
    """Number of spectrogram frames, and of mel filters, of a patch."""
    time_stride: PositiveInt = 10
    """Number of spectrogram frames from one patch to the next; below `patch`, patches overlap."""
    mel_stride: PositiveInt = 10
    """Number of mel filters from one patch to the next; below `patch`, patches overlap."""

    @property
    def steps(self) -> int:
        """The number of patches along time."""
        return (self.frames - self.patch) // self.time_stride + 1

    @property
    def bands(self) -> int:
        """The number of patches along mel filters."""
        return (self.mels - self.patch) // self.mel_stride + 1

    @model_validator(mode="after")
    def _is_possible(self) -> AstSpec:
        if self.dim % self.heads:
            raise ValueError(f"expected dim to be a multiple of heads, found dim {self.dim} and heads {self.heads}")
        if min(self.frames, self.mels) < self.patch:
            raise ValueError(f"expected frames and mels of at least a patch of {self.patch}")
        return self

    @classmethod
    def sizes(cls) -> Mapping[str, Size]:
        weights = "AST (Hugging Face; AudioSet, Speech Commands)"
        return {
            **{f"ast-{step}": Size(cls(time_stride=step, mel_stride=step), weights) for step in (10, 12, 14, 16)},
            "ast-10-speech": Size(cls(frames=128), weights),
        }
