"""The settings of a text encoder of transformers."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveInt

from trichord.pretrain.backbones.spec import TextBackboneSpec


class TransformersTextSpec(TextBackboneSpec):
    """Any text encoder of transformers, with its tokenizer and weights."""

    builds: ClassVar[str] = "trichord.pretrain.backbones.transformers_text.model:TransformersText"

    kind: Literal["transformers"] = "transformers"
    path: str
    """Folder written by `save_pretrained`, or name of a model on the Hugging Face Hub."""
    length: PositiveInt = 64
    """Largest number of tokens of a text; longer texts are cut."""
    pool: Literal["mean", "first", "last"] = "mean"
    """How the tokens of the last layer become one vector: their mean, the first token, or the last."""
    pretrained: bool = True
    """Start from the model's own weights, which must be stored as safetensors; false starts from random weights."""
    activation_checkpointing: bool = False
