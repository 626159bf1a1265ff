"""Tensor names of CLIP as released by OpenAI and open_clip, and of X-CLIP as released and as converted by Hugging Face.

In trichord both are a `VideoText`: a `backbone`, a `text` encoder, X-CLIP's `prompts` and the logarithm of a scale.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from trichord.pretrain.weights.naming import Family, Table, joined

if TYPE_CHECKING:
    from torch import Tensor

_IN_DISTRIBUTED = "module."  # prefix of open_clip's checkpoints, which were saved from DistributedDataParallel
_CUSTOM_TEXT = "text."  # open_clip's prefix for a separate text encoder
# Settings that OpenAI's files store as tensors, and position indices that older files store as weights.
_NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
_RANGES = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")


def _blocks(theirs: str, ours: str) -> Table:
    """Return the names in OpenAI's blocks; only X-CLIP's frame encoder has messages."""
    names = {
        "attn.in_proj_": "attn.qkv.",
        "attn.out_proj.": "attn.proj.",
        "ln_1.": "norm1.",
        "ln_2.": "norm2.",
        "mlp.c_fc.": "mlp.fc1.",
        "mlp.c_proj.": "mlp.fc2.",
        "message_fc.": "message_fc.",
        "message_ln.": "message_norm.",
        "message_attn.in_proj_": "message_attn.qkv.",
        "message_attn.out_proj.": "message_attn.proj.",
    }
    return tuple((f"{theirs}.{{n}}.{one}{{rest}}", f"{ours}.{{n}}.{other}{{rest}}") for one, other in names.items())


def _hugging_face_blocks(theirs: str, ours: str) -> Table:
    names = {
        "self_attn.qkv.": "attn.qkv.",
        "self_attn.out_proj.": "attn.proj.",
        "layer_norm1.": "norm1.",
        "layer_norm2.": "norm2.",
        "mlp.": "mlp.",
        "message_fc.": "message_fc.",
        "message_ln.": "message_norm.",
        "message_attn.qkv.": "message_attn.qkv.",
        "message_attn.out_proj.": "message_attn.proj.",
    }
    return tuple((f"{theirs}.{{n}}.{one}{{rest}}", f"{ours}.{{n}}.{other}{{rest}}") for one, other in names.items())


def _prompts(norm: str) -> Table:
    theirs, ours = "prompts_generator.decoder.{n}.", "prompts.blocks.{n}."
    return (
        ("prompts_generator.alpha", "prompts.share"),
        (f"prompts_generator.{norm}.{{rest}}", "prompts.norm.{rest}"),
        (f"{theirs}norm3.{{rest}}", f"{ours}norm2.{{rest}}"),
        (f"{theirs}mlp.0.{{rest}}", f"{ours}mlp.fc1.{{rest}}"),
        (f"{theirs}mlp.3.{{rest}}", f"{ours}mlp.fc2.{{rest}}"),
        (f"{theirs}{{rest}}", f"{ours}{{rest}}"),
    )


_RELEASED: Table = (
    ("visual.conv1.weight", "backbone.patch_embed.proj.weight"),
    ("visual.class_embedding", "backbone.cls_token"),
    ("visual.positional_embedding", "backbone.pos_embed"),
    ("visual.ln_pre.{rest}", "backbone.norm_pre.{rest}"),
    *_blocks("visual.transformer.resblocks", "backbone.blocks"),
    ("visual.ln_post.{rest}", "backbone.norm.{rest}"),
    ("visual.proj", "backbone.proj.weight"),
    ("mit.positional_embedding", "backbone.time_embed"),
    *_blocks("mit.resblocks", "backbone.integration"),
    ("prompts_visual_ln.{rest}", "prompts.frame_norm.{rest}"),
    ("prompts_visual_proj", "prompts.frame_proj.weight"),
    *_prompts("norm"),
    ("token_embedding.weight", "text.token_embed.weight"),
    ("positional_embedding", "text.pos_embed"),
    *_blocks("transformer.resblocks", "text.blocks"),
    ("ln_final.{rest}", "text.norm.{rest}"),
    ("text_projection", "text.proj.weight"),
    ("logit_scale", "scale.log"),
)

HUGGING_FACE_XCLIP: Table = (
    ("vision_model.embeddings.patch_embedding.weight", "backbone.patch_embed.proj.weight"),
    ("vision_model.embeddings.class_embedding", "backbone.cls_token"),
    ("vision_model.embeddings.position_embedding.weight", "backbone.pos_embed"),
    ("vision_model.pre_layernorm.{rest}", "backbone.norm_pre.{rest}"),
    *_hugging_face_blocks("vision_model.encoder.layers", "backbone.blocks"),
    ("vision_model.post_layernorm.{rest}", "backbone.norm.{rest}"),
    ("visual_projection.weight", "backbone.proj.weight"),
    ("mit.position_embedding", "backbone.time_embed"),
    *_hugging_face_blocks("mit.encoder.layers", "backbone.integration"),
    ("prompts_visual_layernorm.{rest}", "prompts.frame_norm.{rest}"),
    ("prompts_visual_projection", "prompts.frame_proj.weight"),
    *_prompts("layernorm"),
    ("text_model.embeddings.token_embedding.weight", "text.token_embed.weight"),
    ("text_model.embeddings.position_embedding.weight", "text.pos_embed"),
    *_hugging_face_blocks("text_model.encoder.layers", "text.blocks"),
    ("text_model.final_layer_norm.{rest}", "text.norm.{rest}"),
    ("text_projection.weight", "text.proj.weight"),
    ("logit_scale", "scale.log"),
)

# Tensors with another layout in trichord; a file need not have all of them.
_RESHAPED: Mapping[str, Callable[[Tensor], Tensor]] = {
    "visual.class_embedding": lambda vector_D: vector_D.view(1, 1, -1),
    "visual.positional_embedding": lambda table_LD: table_LD.unsqueeze(0),
    "visual.proj": lambda matrix_DE: matrix_DE.T,
    "prompts_visual_proj": lambda matrix_DE: matrix_DE.T,
    "positional_embedding": lambda table_LD: table_LD.unsqueeze(0),
    "text_projection": lambda matrix_DE: matrix_DE.T,
    "vision_model.embeddings.class_embedding": lambda vector_D: vector_D.view(1, 1, -1),
    "vision_model.embeddings.position_embedding.weight": lambda table_LD: table_LD.unsqueeze(0),
    "prompts_visual_projection": lambda matrix_DE: matrix_DE.T,
    "text_model.embeddings.position_embedding.weight": lambda table_LD: table_LD.unsqueeze(0),
    "logit_scale": lambda scale: scale.view(1),
}


def _reshaped(tensors: Mapping[str, Tensor], left_out: Collection[str]) -> dict[str, Tensor]:
    return {
        name: _RESHAPED[name](tensor) if name in _RESHAPED else tensor
        for name, tensor in tensors.items()
        if name not in left_out
    }


def _from_released(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plain = {name.removeprefix(_IN_DISTRIBUTED).removeprefix(_CUSTOM_TEXT): each for name, each in tensors.items()}
    return _reshaped(plain, _NO_WEIGHTS)


def _from_hugging_face(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = _reshaped(tensors, _RANGES)
    for layers in ("vision_model.encoder.layers", "mit.encoder.layers", "text_model.encoder.layers"):
        for attention in (f"{layers}.{{n}}.self_attn", f"{layers}.{{n}}.message_attn"):
            parts = [f"{attention}.{part}_proj.{{rest}}" for part in "qkv"]
            found = joined(found, parts, f"{attention}.qkv.{{rest}}")
    return found


def _clip(prefix: str, name: str) -> Family:
    first = f"{prefix}visual.transformer.resblocks.0."
    return Family(
        name, f"{first}attn.in_proj_weight", _RELEASED, _from_released, but_not=(f"{first}message_fc.weight",)
    )


FAMILIES = (
    Family("X-CLIP", "visual.transformer.resblocks.0.message_fc.weight", _RELEASED, _from_released),
    Family(
        "X-CLIP of Hugging Face",
        "vision_model.encoder.layers.0.message_fc.weight",
        HUGGING_FACE_XCLIP,
        _from_hugging_face,
    ),
    _clip("", "CLIP"),
    _clip(_IN_DISTRIBUTED, "CLIP, in training"),
)
