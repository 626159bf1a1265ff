"""The settings of an image network applied to spectrograms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from trichord.pretrain.backbones.spec import FROM_RESNET, AudioBackboneSpec, Size


class AudioResnetSpec(AudioBackboneSpec):
    """An image network that takes the spectrogram as a greyscale image; a ResNet-18 by default."""

    builds: ClassVar[str] = "trichord.pretrain.backbones.audio_resnet.model:AudioResnet"

    kind: Literal["audio_resnet"] = "audio_resnet"
    network: str = "resnet18"
    """Name of a convolutional image network of timm."""

    @classmethod
    def sizes(cls) -> Mapping[str, Size]:
        return {"audio-resnet18": Size(cls(), FROM_RESNET)}
