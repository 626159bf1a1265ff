"""Backbones by themselves: of images by timm or DINO, or of video."""

from __future__ import annotations

from trichord.pretrain.published_tables.family import Family

FAMILIES = (
    Family("ViT", "blocks.0.attn.qkv.weight", (("head.{rest}", "classifier.{rest}"), ("{rest}", "backbone.{rest}"))),
)
