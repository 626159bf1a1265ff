"""Exports a backbone as a folder that Hugging Face's transformers loads with `from_pretrained`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from trichord.core.errors import UserError
from trichord.core.files import write_whole
from trichord.pretrain.backbones.spec import AudioBackboneSpec, BackboneSpec
from trichord.pretrain.backbones.timesformer import TimeSformerSpec
from trichord.pretrain.backbones.timesformer.names import HUGGING_FACE_TIMESFORMER
from trichord.pretrain.weights.naming import renamed, reversed_table

_ATTENTION = {"divided": "divided_space_time", "joint": "joint_space_time", "space": "space_only"}
_POSITIONS = {"divided": "space-time", "joint": "space-time", "space": "space"}  # the only ones that its class supports
_TABLE = reversed_table(HUGGING_FACE_TIMESFORMER)


def as_hugging_face(
    tensors: dict[str, Tensor], spec: BackboneSpec | AudioBackboneSpec
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a backbone with the names of TimesformerModel, which has no head, and the content of its config.json."""
    if not isinstance(spec, TimeSformerSpec):
        raise UserError(
            f"cannot export a backbone of kind '{spec.kind}' for Hugging Face's transformers, only timesformer. "
            "Next: trichord export RUN --format safetensors"
        )
    if spec.positions != _POSITIONS[spec.attention]:
        raise UserError(
            f"Hugging Face's TimeSformer does not support positions '{spec.positions}' with attention "
            f"'{spec.attention}', only '{_POSITIONS[spec.attention]}'. Next: trichord export RUN --format safetensors"
        )
    named = {
        renamed(name, _TABLE).removeprefix("timesformer."): tensor
        for name, tensor in tensors.items()
        if name.startswith("backbone.")
    }
    config = {
        "architectures": ["TimesformerModel"],
        "model_type": "timesformer",
        "image_size": spec.size,
        "patch_size": spec.patch,
        "num_channels": 3,
        "num_frames": spec.frames,
        "hidden_size": spec.dim,
        "num_hidden_layers": spec.depth,
        "num_attention_heads": spec.heads,
        "intermediate_size": int(spec.dim * spec.mlp_ratio),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "attention_type": _ATTENTION[spec.attention],
        "drop_path_rate": 0,
        "torch_dtype": "float32",
    }
    return named, config


def write_config(config: dict[str, Any], folder: Path) -> None:
    """Write config.json next to the weights."""
    write_whole(folder / "config.json", json.dumps(config, indent=2) + "\n")
