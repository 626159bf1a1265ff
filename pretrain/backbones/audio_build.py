"""From what a recipe says of an audio backbone to the backbone."""

from __future__ import annotations

from pretrain.audio_backbone import AudioBackbone
from pretrain.backbones.ast import Ast
from pretrain.backbones.audio_resnet import AudioResnet
from pretrain.backbones.audio_specs import AstSpec, AudioResnetSpec, AudioSpec
from pretrain.backbones.audio_vtn import AudioVtn


def build_audio_backbone(spec: AudioSpec) -> AudioBackbone:
    """Build an audio backbone with fresh weights drawn from torch's generator."""
    if isinstance(spec, AstSpec):
        return Ast(spec)
    return AudioResnet(spec) if isinstance(spec, AudioResnetSpec) else AudioVtn(spec)
