"""From what a recipe says of a backbone to the backbone."""

from __future__ import annotations

from pretrain.backbone import Backbone
from pretrain.backbones.specs import BackboneSpec
from pretrain.backbones.timesformer import TimeSformer


def build_backbone(spec: BackboneSpec) -> Backbone:
    """Build a backbone with fresh weights drawn from torch's generator."""
    return TimeSformer(spec)
