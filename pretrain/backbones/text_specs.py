"""The text encoders that a recipe may choose from, each told by its `kind`; read without torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from trichord.pretrain.backbones.clip_text_spec import ClipTextSpec


class TransformersTextSpec(BaseModel):
    """Any encoder of text that transformers has, with its tokenizer and its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["transformers"] = "transformers"
    path: str  # a folder as `save_pretrained` writes it, or a name on the Hugging Face Hub
    length: PositiveInt = 64  # of the longest text, in tokens
    pool: Literal["mean", "first", "last"] = "mean"  # which tokens make the vector
    pretrained: bool = True  # start from its weights, which must be safetensors
    activation_checkpointing: bool = False


TextSpec = Annotated[ClipTextSpec | TransformersTextSpec, Field(discriminator="kind")]
