"""Tensor names of ViViT's model 1 as converted by Hugging Face, in released files and in those written today.

`pooler` is a layer that only VivitModel has and that is untrained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trichord.pretrain.weights.naming import Family, Table, model_table, with_prefix_and_joined

if TYPE_CHECKING:
    from torch import Tensor

_PREFIX = "vivit."
_TABLE: Table = (*model_table(_PREFIX), (f"{_PREFIX}pooler.{{rest}}", "pooler.{rest}"))


def _prepare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return with_prefix_and_joined(tensors, _PREFIX)


_OTHERS = ("embeddings.distillation_token",)  # of AST, whose layers have the same names

FAMILIES = (
    Family("ViViT of Hugging Face", "vivit.encoder.layer.0.attention.attention.query.weight", _TABLE, _prepare),
    Family("ViViT of Hugging Face, new names", "vivit.layers.0.attention.q_proj.weight", _TABLE, _prepare),
    Family(
        "ViViT of Hugging Face, no classifier",
        "encoder.layer.0.attention.attention.query.weight",
        _TABLE,
        _prepare,
        _OTHERS,
    ),
    Family(
        "ViViT of Hugging Face, no classifier, new names",
        "layers.0.attention.q_proj.weight",
        _TABLE,
        _prepare,
        _OTHERS,
    ),
)
