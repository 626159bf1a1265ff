"""ViViT's model 1 as Hugging Face converted it, by the names of released files and by those that it writes today.

Queries, keys and values stand apart there. `pooler` is a map that only VivitModel has, and that nobody trained.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pretrain.published_tables.family import Family
from pretrain.published_tables.joining import joined
from pretrain.published_tables.naming import Table

_BLOCK = "backbone.blocks.{n}."
_PARTS = ("query", "key", "value")


def _prepare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join queries, keys and values, and give every tensor its place below `vivit.`."""
    found = {
        name if name.startswith(("vivit.", "classifier.")) else f"vivit.{name}": tensor
        for name, tensor in tensors.items()
    }
    old, new = "vivit.encoder.layer.{n}.attention.attention.", "vivit.layers.{n}.attention."
    found = joined(found, [f"{old}{part}.{{rest}}" for part in _PARTS], f"{_BLOCK}attn.qkv.{{rest}}")
    return joined(found, [f"{new}{part[0]}_proj.{{rest}}" for part in _PARTS], f"{_BLOCK}attn.qkv.{{rest}}")


def _table() -> Table:
    old, new = "vivit.encoder.layer.{n}.", "vivit.layers.{n}."
    return (
        ("vivit.embeddings.cls_token", "backbone.cls_token"),
        ("vivit.embeddings.position_embeddings", "backbone.pos_embed"),
        ("vivit.embeddings.patch_embeddings.projection.{rest}", "backbone.patch_embed.proj.{rest}"),
        *((f"{layer}layernorm_before.{{rest}}", f"{_BLOCK}norm1.{{rest}}") for layer in (old, new)),
        *((f"{layer}layernorm_after.{{rest}}", f"{_BLOCK}norm2.{{rest}}") for layer in (old, new)),
        (f"{old}attention.output.dense.{{rest}}", f"{_BLOCK}attn.proj.{{rest}}"),
        (f"{new}attention.o_proj.{{rest}}", f"{_BLOCK}attn.proj.{{rest}}"),
        (f"{old}intermediate.dense.{{rest}}", f"{_BLOCK}mlp.fc1.{{rest}}"),
        (f"{old}output.dense.{{rest}}", f"{_BLOCK}mlp.fc2.{{rest}}"),
        (f"{new}mlp.{{rest}}", f"{_BLOCK}mlp.{{rest}}"),
        ("vivit.layernorm.{rest}", "backbone.norm.{rest}"),
        ("vivit.pooler.{rest}", "pooler.{rest}"),
    )


_OTHERS = ("embeddings.distillation_token",)  # of audio, whose layers are called the same

FAMILIES = (
    Family("ViViT of Hugging Face", "vivit.encoder.layer.0.attention.attention.query.weight", _table(), _prepare),
    Family("ViViT of Hugging Face, new names", "vivit.layers.0.attention.q_proj.weight", _table(), _prepare),
    Family(
        "ViViT of Hugging Face, no classifier",
        "encoder.layer.0.attention.attention.query.weight",
        _table(),
        _prepare,
        _OTHERS,
    ),
    Family(
        "ViViT of Hugging Face, no classifier, new names",
        "layers.0.attention.q_proj.weight",
        _table(),
        _prepare,
        _OTHERS,
    ),
)
