"""Names and shapes of released files, without weights or memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


def tensors(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def norms(names: Iterable[str], dim: int) -> Shapes:
    return {f"{name}.{leaf}": (dim,) for name in names for leaf in ("weight", "bias")}


def linear(name: str, rows: int, columns: int) -> Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def timesformer(frames: int, size: int, classes: int) -> Shapes:
    """Return the tensors of model_state in a released .pyth."""
    shapes: Shapes = {
        "cls_token": (1, 1, 768),
        "pos_embed": (1, 1 + (size // 16) ** 2, 768),
        "time_embed": (1, frames, 768),
        "patch_embed.proj.weight": (768, 3, 16, 16),
        "patch_embed.proj.bias": (768,),
        **norms(["norm"], 768),
        **linear("head", classes, 768),
    }
    for block in (f"blocks.{number}" for number in range(12)):
        shapes |= norms([f"{block}.{name}" for name in ("norm1", "temporal_norm1", "norm2")], 768)
        for attention in ("attn", "temporal_attn"):
            shapes |= linear(f"{block}.{attention}.qkv", 2304, 768) | linear(f"{block}.{attention}.proj", 768, 768)
        shapes |= linear(f"{block}.temporal_fc", 768, 768)
        shapes |= linear(f"{block}.mlp.fc1", 3072, 768) | linear(f"{block}.mlp.fc2", 768, 3072)
    return {f"model.{name}": shape for name, shape in shapes.items()}


def timesformer_of_hugging_face(frames: int, size: int, classes: int) -> Shapes:
    """Return the tensors of a TimesformerForVideoClassification file."""
    base = "timesformer"
    shapes: Shapes = {
        f"{base}.embeddings.cls_token": (1, 1, 768),
        f"{base}.embeddings.position_embeddings": (1, 1 + (size // 16) ** 2, 768),
        f"{base}.embeddings.time_embeddings": (1, frames, 768),
        f"{base}.embeddings.patch_embeddings.projection.weight": (768, 3, 16, 16),
        f"{base}.embeddings.patch_embeddings.projection.bias": (768,),
        **norms([f"{base}.layernorm"], 768),
        **linear("classifier", classes, 768),
    }
    for layer in (f"{base}.encoder.layer.{number}" for number in range(12)):
        shapes |= norms(
            [f"{layer}.{name}" for name in ("layernorm_before", "temporal_layernorm", "layernorm_after")], 768
        )
        for attention in ("attention", "temporal_attention"):
            shapes |= linear(f"{layer}.{attention}.attention.qkv", 2304, 768)
            shapes |= linear(f"{layer}.{attention}.output.dense", 768, 768)
        shapes |= linear(f"{layer}.temporal_dense", 768, 768)
        shapes |= linear(f"{layer}.intermediate.dense", 3072, 768) | linear(f"{layer}.output.dense", 768, 3072)
    return shapes


def vivit_of_hugging_face(classes: int, new_names: bool = False) -> Shapes:
    """Return the tensors of a VivitForVideoClassification file with the released or the current names."""
    base = "vivit"
    shapes: Shapes = {
        f"{base}.embeddings.cls_token": (1, 1, 768),
        f"{base}.embeddings.position_embeddings": (1, 1 + 16 * 196, 768),
        f"{base}.embeddings.patch_embeddings.projection.weight": (768, 3, 2, 16, 16),
        f"{base}.embeddings.patch_embeddings.projection.bias": (768,),
        **norms([f"{base}.layernorm"], 768),
        **linear("classifier", classes, 768),
    }
    for number in range(12):
        layer = f"{base}.layers.{number}" if new_names else f"{base}.encoder.layer.{number}"
        shapes |= norms([f"{layer}.layernorm_before", f"{layer}.layernorm_after"], 768)
        for part in ("query", "key", "value"):
            name = f"attention.{part[0]}_proj" if new_names else f"attention.attention.{part}"
            shapes |= linear(f"{layer}.{name}", 768, 768)
        shapes |= linear(f"{layer}.{'attention.o_proj' if new_names else 'attention.output.dense'}", 768, 768)
        shapes |= linear(f"{layer}.{'mlp.fc1' if new_names else 'intermediate.dense'}", 3072, 768)
        shapes |= linear(f"{layer}.{'mlp.fc2' if new_names else 'output.dense'}", 768, 3072)
    return shapes


def image_vit(size: int = 224, classes: int | None = 1000) -> Shapes:
    """Return the tensors of timm's ViT-B/16 file, or without classes of DINO's."""
    shapes: Shapes = {
        "cls_token": (1, 1, 768),
        "pos_embed": (1, 1 + (size // 16) ** 2, 768),
        "patch_embed.proj.weight": (768, 3, 16, 16),
        "patch_embed.proj.bias": (768,),
        **norms(["norm"], 768),
        **(linear("head", classes, 768) if classes else {}),
    }
    for block in (f"blocks.{number}" for number in range(12)):
        shapes |= norms([f"{block}.norm1", f"{block}.norm2"], 768)
        shapes |= linear(f"{block}.attn.qkv", 2304, 768) | linear(f"{block}.attn.proj", 768, 768)
        shapes |= linear(f"{block}.mlp.fc1", 3072, 768) | linear(f"{block}.mlp.fc2", 768, 3072)
    return shapes
