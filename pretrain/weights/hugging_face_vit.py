"""Tensor names of Hugging Face's models that derive from its ViT, in released files and in those written today.

Queries, keys and values are separate there. Released files use `encoder.layer`, those of transformers 5 `layers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trichord.pretrain.weights.naming import Table, joined

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK = "backbone.blocks.{n}."


def model_table(prefix: str) -> Table:
    """Return the table of names that these models share; `prefix` is that of a model's tensors."""
    old, new = f"{prefix}encoder.layer.{{n}}.", f"{prefix}layers.{{n}}."
    return (
        (f"{prefix}embeddings.cls_token", "backbone.cls_token"),
        (f"{prefix}embeddings.position_embeddings", "backbone.pos_embed"),
        (f"{prefix}embeddings.patch_embeddings.projection.{{rest}}", "backbone.patch_embed.proj.{rest}"),
        *((f"{layer}layernorm_before.{{rest}}", f"{_BLOCK}norm1.{{rest}}") for layer in (old, new)),
        *((f"{layer}layernorm_after.{{rest}}", f"{_BLOCK}norm2.{{rest}}") for layer in (old, new)),
        (f"{old}attention.output.dense.{{rest}}", f"{_BLOCK}attn.proj.{{rest}}"),
        (f"{new}attention.o_proj.{{rest}}", f"{_BLOCK}attn.proj.{{rest}}"),
        (f"{old}intermediate.dense.{{rest}}", f"{_BLOCK}mlp.fc1.{{rest}}"),
        (f"{old}output.dense.{{rest}}", f"{_BLOCK}mlp.fc2.{{rest}}"),
        (f"{new}mlp.{{rest}}", f"{_BLOCK}mlp.{{rest}}"),
        (f"{prefix}layernorm.{{rest}}", "backbone.norm.{rest}"),
    )


def with_prefix_and_joined(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Add a missing prefix to all tensors except a classifier's, and join queries, keys and values."""
    found = {
        name if name.startswith((prefix, "classifier.")) else f"{prefix}{name}": tensor
        for name, tensor in tensors.items()
    }
    old, new = f"{prefix}encoder.layer.{{n}}.attention.attention.", f"{prefix}layers.{{n}}.attention."
    for parts in ([f"{old}{part}" for part in ("query", "key", "value")], [f"{new}{part}_proj" for part in "qkv"]):
        found = joined(found, [f"{part}.{{rest}}" for part in parts], f"{_BLOCK}attn.qkv.{{rest}}")
    return found
