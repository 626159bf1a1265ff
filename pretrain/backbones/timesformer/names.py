"""Tensor names of TimeSformer as released and as converted by Hugging Face."""

from __future__ import annotations

from trichord.pretrain.weights.naming import Family, Table


def _hugging_face(prefix: str) -> Table:
    layer, block = f"{prefix}encoder.layer.{{n}}.", "backbone.blocks.{n}."
    return (
        (f"{prefix}embeddings.cls_token", "backbone.cls_token"),
        (f"{prefix}embeddings.position_embeddings", "backbone.pos_embed"),
        (f"{prefix}embeddings.time_embeddings", "backbone.time_embed"),
        (f"{prefix}embeddings.patch_embeddings.projection.{{rest}}", "backbone.patch_embed.proj.{rest}"),
        (f"{layer}layernorm_before.{{rest}}", f"{block}norm1.{{rest}}"),
        (f"{layer}layernorm_after.{{rest}}", f"{block}norm2.{{rest}}"),
        (f"{layer}attention.attention.qkv.{{rest}}", f"{block}attn.qkv.{{rest}}"),
        (f"{layer}attention.output.dense.{{rest}}", f"{block}attn.proj.{{rest}}"),
        (f"{layer}temporal_layernorm.{{rest}}", f"{block}temporal_norm1.{{rest}}"),
        (f"{layer}temporal_attention.attention.qkv.{{rest}}", f"{block}temporal_attn.qkv.{{rest}}"),
        (f"{layer}temporal_attention.output.dense.{{rest}}", f"{block}temporal_attn.proj.{{rest}}"),
        (f"{layer}temporal_dense.{{rest}}", f"{block}temporal_fc.{{rest}}"),
        (f"{layer}intermediate.dense.{{rest}}", f"{block}mlp.fc1.{{rest}}"),
        (f"{layer}output.dense.{{rest}}", f"{block}mlp.fc2.{{rest}}"),
        (f"{prefix}layernorm.{{rest}}", "backbone.norm.{rest}"),
        ("classifier.{rest}", "classifier.{rest}"),
    )


HUGGING_FACE_TIMESFORMER = _hugging_face("timesformer.")

FAMILIES = (
    Family(
        "TimeSformer",
        "model.blocks.0.attn.qkv.weight",
        (("model.head.{rest}", "classifier.{rest}"), ("model.{rest}", "backbone.{rest}")),
    ),
    Family(
        "TimeSformer of Hugging Face",
        "timesformer.encoder.layer.0.attention.attention.qkv.weight",
        HUGGING_FACE_TIMESFORMER,
    ),
    Family(
        "TimeSformer of Hugging Face, no classifier",
        "encoder.layer.0.attention.attention.qkv.weight",
        _hugging_face(""),
    ),
)
