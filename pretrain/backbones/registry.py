"""The backbones that a recipe can select by `kind`: one line for each here, or an entry point of a plug-in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trichord.core.registry import Registry, one_of
from trichord.pretrain.backbones.spec import AudioBackboneSpec, BackboneSpec, Size, TextBackboneSpec

_HERE = "trichord.pretrain.backbones"

BACKBONES: Registry[type[BackboneSpec]] = Registry(
    "backbones",
    {
        "timesformer": f"{_HERE}.timesformer:TimeSformerSpec",
        "vivit": f"{_HERE}.vivit:ViViTSpec",
        "xclip": f"{_HERE}.xclip:XClipSpec",
        "vtn": f"{_HERE}.vtn:VtnSpec",
        "videomamba": f"{_HERE}.videomamba:VideoMambaSpec",
        "resnet_3d": f"{_HERE}.resnet_3d:Resnet3dSpec",
        "cnn_rnn": f"{_HERE}.cnn_rnn:CnnRnnSpec",
        "frame_fusion": f"{_HERE}.frame_fusion:FrameFusionSpec",
    },
)
AUDIO_BACKBONES: Registry[type[AudioBackboneSpec]] = Registry(
    "audio_backbones",
    {
        "ast": f"{_HERE}.ast:AstSpec",
        "audio_resnet": f"{_HERE}.audio_resnet:AudioResnetSpec",
        "audio_vtn": f"{_HERE}.audio_vtn:AudioVtnSpec",
    },
)
TEXT_BACKBONES: Registry[type[TextBackboneSpec]] = Registry(
    "text_backbones",
    {
        "clip": f"{_HERE}.clip_text:ClipTextSpec",
        "transformers": f"{_HERE}.transformers_text:TransformersTextSpec",
    },
)

# The types of recipe fields that hold a backbone.
if TYPE_CHECKING:
    AnyBackbone = BackboneSpec
    AnyAudioBackbone = AudioBackboneSpec
    AnyTextBackbone = TextBackboneSpec
else:
    AnyBackbone = one_of(BACKBONES)
    AnyAudioBackbone = one_of(AUDIO_BACKBONES)
    AnyTextBackbone = one_of(TEXT_BACKBONES)


def published_sizes() -> dict[str, Size]:
    """Return the published sizes of all families by name."""
    specs = (*BACKBONES.values(), *AUDIO_BACKBONES.values())
    return {name: size for spec in specs for name, size in spec.sizes().items()}
