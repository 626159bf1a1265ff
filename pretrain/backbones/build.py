"""From what a recipe says of a backbone to the backbone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pretrain.backbone import Backbone
from pretrain.backbones.spec import Spec
from pretrain.backbones.specs import BackboneSpec, TimeSformerSpec, VideoMambaSpec, ViViTSpec, VtnSpec, XClipSpec


def build_backbone(spec: BackboneSpec) -> Backbone:
    """Build a backbone with fresh weights drawn from torch's generator."""
    return _BUILDERS[type(spec)](spec)


def _timesformer(spec: TimeSformerSpec) -> Backbone:
    from pretrain.backbones.timesformer import TimeSformer

    return TimeSformer(spec)


def _videomamba(spec: VideoMambaSpec) -> Backbone:
    from pretrain.backbones.videomamba import VideoMamba

    return VideoMamba(spec)


def _xclip(spec: XClipSpec) -> Backbone:
    from pretrain.backbones.xclip import XClip

    return XClip(spec)


def _vtn(spec: VtnSpec) -> Backbone:
    from pretrain.backbones.vtn import Vtn

    return Vtn(spec)


def _vivit(spec: ViViTSpec) -> Backbone:
    from pretrain.backbones.vivit import ViViT

    return ViViT(spec)


# Each imports its family alone.
_BUILDERS: dict[type[Spec], Callable[[Any], Backbone]] = {
    TimeSformerSpec: _timesformer,
    VideoMambaSpec: _videomamba,
    ViViTSpec: _vivit,
    VtnSpec: _vtn,
    XClipSpec: _xclip,
}
