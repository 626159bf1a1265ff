"""From what a recipe says of a backbone to the backbone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trichord.pretrain.backbone import Backbone
from trichord.pretrain.backbones.spec import Spec
from trichord.pretrain.backbones.specs import (
    BackboneSpec,
    CnnRnnSpec,
    FrameFusionSpec,
    Resnet3dSpec,
    TimeSformerSpec,
    VideoMambaSpec,
    ViViTSpec,
    VtnSpec,
    XClipSpec,
)


def build_backbone(spec: BackboneSpec) -> Backbone:
    """Build a backbone with fresh weights drawn from torch's generator."""
    return _BUILDERS[type(spec)](spec)


def _timesformer(spec: TimeSformerSpec) -> Backbone:
    from trichord.pretrain.backbones.timesformer import TimeSformer

    return TimeSformer(spec)


def _videomamba(spec: VideoMambaSpec) -> Backbone:
    from trichord.pretrain.backbones.videomamba import VideoMamba

    return VideoMamba(spec)


def _xclip(spec: XClipSpec) -> Backbone:
    from trichord.pretrain.backbones.xclip import XClip

    return XClip(spec)


def _vtn(spec: VtnSpec) -> Backbone:
    from trichord.pretrain.backbones.vtn import Vtn

    return Vtn(spec)


def _vivit(spec: ViViTSpec) -> Backbone:
    from trichord.pretrain.backbones.vivit import ViViT

    return ViViT(spec)


def _resnet_3d(spec: Resnet3dSpec) -> Backbone:
    from trichord.pretrain.backbones.resnet_3d import Resnet3d

    return Resnet3d(spec)


def _frame_fusion(spec: FrameFusionSpec) -> Backbone:
    from trichord.pretrain.backbones.frame_fusion import FrameFusion

    return FrameFusion(spec)


def _cnn_rnn(spec: CnnRnnSpec) -> Backbone:
    from trichord.pretrain.backbones.cnn_rnn import CnnRnn

    return CnnRnn(spec)


# Each imports its family alone.
_BUILDERS: dict[type[Spec], Callable[[Any], Backbone]] = {
    CnnRnnSpec: _cnn_rnn,
    FrameFusionSpec: _frame_fusion,
    Resnet3dSpec: _resnet_3d,
    TimeSformerSpec: _timesformer,
    VideoMambaSpec: _videomamba,
    ViViTSpec: _vivit,
    VtnSpec: _vtn,
    XClipSpec: _xclip,
}
