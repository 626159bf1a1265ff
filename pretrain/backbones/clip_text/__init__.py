"""The settings of CLIP's text encoder."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveInt, model_validator

from trichord.pretrain.backbones.spec import TextBackboneSpec


class ClipTextSpec(TextBackboneSpec):
    """CLIP's text encoder; by default that of CLIP ViT-B."""

    builds: ClassVar[str] = "trichord.pretrain.backbones.clip_text.model:ClipText"
    takes_clip_weights: ClassVar[bool] = True

    kind: Literal["clip"] = "clip"
    dim: PositiveInt = 512
    """Number of features of a token."""
    depth: PositiveInt = 12
    """Number of transformer blocks."""
    heads: PositiveInt = 8
    """Number of attention heads, which must divide `dim`."""
    joint_dim: PositiveInt = 512
    """Number of features of the space that text shares with video, and so of the text vector."""
    vocabulary: PositiveInt = 49408
    """Number of tokens of the vocabulary, at least that of CLIP's tokenizer."""
    length: PositiveInt = 77
    """Largest number of tokens of a text, its start and end included; longer texts are cut."""
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    """Activation of the MLPs: `quick_gelu` for OpenAI's weights, `gelu` for most of open_clip's."""

    @model_validator(mode="after")
    def _is_possible(self) -> ClipTextSpec:
        if self.dim % self.heads:
            raise ValueError(f"expected dim to be a multiple of heads, found dim {self.dim} and heads {self.heads}")
        return self
