"""From what a recipe says of an audio backbone to the backbone."""

from __future__ import annotations

from trichord.pretrain.audio_backbone import AudioBackbone
from trichord.pretrain.backbones.audio_specs import AstSpec, AudioResnetSpec, AudioSpec


def build_audio_backbone(spec: AudioSpec) -> AudioBackbone:
    """Build an audio backbone with fresh weights drawn from torch's generator; another's libraries take seconds."""
    if isinstance(spec, AstSpec):
        from trichord.pretrain.backbones.ast import Ast

        return Ast(spec)
    if isinstance(spec, AudioResnetSpec):
        from trichord.pretrain.backbones.audio_resnet import AudioResnet

        return AudioResnet(spec)
    from trichord.pretrain.backbones.audio_vtn import AudioVtn

    return AudioVtn(spec)
