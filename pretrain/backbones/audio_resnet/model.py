"""A convolutional image network applied to log-mel spectrograms, as in XDC's and SeLaVi's audio encoders.

Legend: B samples, T frames and M mel filters; D features, t steps and m bands of the last map; c colours, k pixels
along a kernel.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from trichord.pretrain.backbones.audio_resnet import AudioResnetSpec
from trichord.pretrain.backbones.base import AudioBackbone, AudioTokens
from trichord.pretrain.layers.image_network import image_network, layers_of, of_network

_FIRST_KERNEL = "network.conv1.weight"


class AudioResnet(AudioBackbone):
    """An image network on spectrograms. The grid is the last feature map, the pooled vector its mean."""

    def __init__(self, spec: AudioResnetSpec) -> None:
        super().__init__()
        network: Any = image_network(
            "audio network", spec.network, spec.mels, spec.drop_path, spec.activation_checkpointing, colours=1
        )
        self.network = network
        self.dim: int = network.num_features
        self._layers = layers_of(self.network)
        self.layers = max(self._layers.values()) + 1

    def forward(self, audio_BTM: Tensor, pooled_only: bool = False) -> AudioTokens:
        map_BDmt: Tensor = self.network.forward_features(audio_BTM.transpose(1, 2).unsqueeze(1))
        grid_BtmD = map_BDmt.permute(0, 3, 2, 1)
        return AudioTokens(grid_BtmD.mean(dim=(1, 2)), grid_BtmD[:, :, :0] if pooled_only else grid_BtmD)

    def layer_of(self, name: str) -> int:
        return self._layers[name.removeprefix("network.")]

    def of_images(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Convert a ResNet of images: the first kernel is summed over colours, for a single input channel."""
        adapted = of_network("network", tensors)
        kernel_Dckk = adapted.get(_FIRST_KERNEL)
        if kernel_Dckk is None or kernel_Dckk.shape[1] == 1:
            return adapted
        return adapted | {_FIRST_KERNEL: kernel_Dckk.sum(dim=1, keepdim=True)}
