"""What a recipe says of a network of images that looks at spectrograms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from trichord.pretrain.backbones.spec import FROM_RESNET, AudioBackboneSpec, Size


class AudioResnetSpec(AudioBackboneSpec):
    """A network of images that looks at the spectrogram as at a grey picture, as it stands a ResNet-18."""

    builds: ClassVar[str] = "trichord.pretrain.backbones.audio_resnet.model:AudioResnet"

    kind: Literal["audio_resnet"] = "audio_resnet"
    network: str = "resnet18"  # any of timm's convolutional networks

    @classmethod
    def sizes(cls) -> Mapping[str, Size]:
        return {"audio-resnet18": Size(cls(), FROM_RESNET)}
