"""The settings of a text encoder of transformers."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveInt

from trichord.pretrain.backbones.spec import TextBackboneSpec


class TransformersTextSpec(TextBackboneSpec):
    """Any text encoder of transformers, with its tokenizer and weights."""

    builds: ClassVar[str] = "trichord.pretrain.backbones.transformers_text.model:TransformersText"

    kind: Literal["transformers"] = "transformers"
    path: str  # a folder written by `save_pretrained`, or a name on the Hugging Face Hub
    length: PositiveInt = 64  # of the longest text, in tokens
    pool: Literal["mean", "first", "last"] = "mean"  # the tokens that are pooled into the vector
    pretrained: bool = True  # start from its weights, which must be safetensors
    activation_checkpointing: bool = False
