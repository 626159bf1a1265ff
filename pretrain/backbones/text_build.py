"""From what a recipe says of a text encoder to the encoder."""

from __future__ import annotations

from trichord.pretrain.backbones.clip_text_spec import ClipTextSpec
from trichord.pretrain.backbones.text_specs import TextSpec
from trichord.pretrain.text_backbone import TextBackbone


def build_text_backbone(spec: TextSpec) -> TextBackbone:
    """Build a text encoder with fresh weights drawn from torch's generator."""
    if isinstance(spec, ClipTextSpec):
        from trichord.pretrain.backbones.clip_text import ClipText

        return ClipText(spec)
    from trichord.pretrain.backbones.transformers_text import TransformersText

    return TransformersText(spec)
