"""What a recipe says of a text encoder of transformers."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveInt

from trichord.pretrain.backbones.spec import TextBackboneSpec


class TransformersTextSpec(TextBackboneSpec):
    """Any encoder of text that transformers has, with its tokenizer and its weights."""

    builds: ClassVar[str] = "trichord.pretrain.backbones.transformers_text.model:TransformersText"

    kind: Literal["transformers"] = "transformers"
    path: str  # a folder as `save_pretrained` writes it, or a name on the Hugging Face Hub
    length: PositiveInt = 64  # of the longest text, in tokens
    pool: Literal["mean", "first", "last"] = "mean"  # which tokens make the vector
    pretrained: bool = True  # start from its weights, which must be safetensors
    activation_checkpointing: bool = False
