"""Tensor names of VTN as released by its fork of PySlowFast: timm's ViT, Hugging Face's Longformer and a head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trichord.pretrain.weights.naming import Family, Table, joined

if TYPE_CHECKING:
    from torch import Tensor

_RANGE = "temporal_encoder.embeddings.position_ids"  # a buffer saved by older versions of transformers
_LAYER, _ATTENTION = "temporal_encoder.encoder.layer.{n}.", "temporal_encoder.encoder.layer.{n}.attention.self."

RELEASED_VTN: Table = (
    ("backbone.{rest}", "backbone.frames.{rest}"),
    ("cls_token", "backbone.cls_token"),
    ("temporal_encoder.embeddings.position_embeddings.{rest}", "backbone.sum.positions.{rest}"),
    ("temporal_encoder.embeddings.token_type_embeddings.{rest}", "backbone.sum.kinds.{rest}"),
    ("temporal_encoder.embeddings.LayerNorm.{rest}", "backbone.sum.norm.{rest}"),
    (f"{_ATTENTION}{{rest}}", "backbone.blocks.{n}.attn.{rest}"),
    (f"{_LAYER}attention.output.dense.{{rest}}", "backbone.blocks.{n}.attn.proj.{rest}"),
    (f"{_LAYER}attention.output.LayerNorm.{{rest}}", "backbone.blocks.{n}.norm1.{rest}"),
    (f"{_LAYER}intermediate.dense.{{rest}}", "backbone.blocks.{n}.mlp.fc1.{rest}"),
    (f"{_LAYER}output.dense.{{rest}}", "backbone.blocks.{n}.mlp.fc2.{rest}"),
    (f"{_LAYER}output.LayerNorm.{{rest}}", "backbone.blocks.{n}.norm2.{rest}"),
    ("mlp_head.{rest}", "classifier.{rest}"),
)


def _prepare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {name: tensor for name, tensor in tensors.items() if name != _RANGE}
    for which in ("", "global_"):
        ending = f"_{which}".rstrip("_")
        parts = [f"{_ATTENTION}{part}{ending}.{{rest}}" for part in ("query", "key", "value")]
        found = joined(found, parts, f"{_ATTENTION}{which}qkv.{{rest}}")
    return found


SIGN = "temporal_encoder.encoder.layer.0.attention.self.query_global.weight"

FAMILIES = (Family("VTN", SIGN, RELEASED_VTN, _prepare),)
