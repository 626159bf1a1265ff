"""Tensor names of AST as released and as converted by Hugging Face, in released files and in those written today.

Released files still contain DeiT's two image classifiers, which AST does not use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trichord.pretrain.weights.hugging_face_vit import model_table, with_prefix_and_joined
from trichord.pretrain.weights.naming import Family, Table

if TYPE_CHECKING:
    from torch import Tensor

_PREFIX = "audio_spectrogram_transformer."
_NO_AST = ("module.v.head.weight", "module.v.head.bias", "module.v.head_dist.weight", "module.v.head_dist.bias")
_RELEASED: Table = (("module.v.{rest}", "backbone.{rest}"), ("module.mlp_head.{rest}", "classifier.{rest}"))
_HUGGING_FACE: Table = (
    (f"{_PREFIX}embeddings.distillation_token", "backbone.dist_token"),
    *model_table(_PREFIX),
)


def _from_released(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name not in _NO_AST}


def _from_hugging_face(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return with_prefix_and_joined(tensors, _PREFIX)


FAMILIES = (
    Family("AST", "module.v.dist_token", _RELEASED, _from_released),
    Family("AST of Hugging Face", f"{_PREFIX}embeddings.distillation_token", _HUGGING_FACE, _from_hugging_face),
    Family("AST of Hugging Face, no classifier", "embeddings.distillation_token", _HUGGING_FACE, _from_hugging_face),
)
