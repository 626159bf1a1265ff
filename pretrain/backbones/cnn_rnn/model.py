"""A convolutional image network for each frame and a gated recurrent unit over frames (Cho et al. 2014), as in
"Long-term Recurrent Convolutional Networks" (Donahue et al. 2015), whose recurrent part is an LSTM.

Legend: B clips, C colours, T frames, H rows and W columns of pixels; D features, E features of a frame.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trichord.pretrain.backbones.base import Backbone, Tokens
from trichord.pretrain.backbones.cnn_rnn import CnnRnnSpec
from trichord.pretrain.layers.image_network import features_of, image_network, layers_of, of_network


class CnnRnn(Backbone):
    """A CNN and a GRU. The grid has one place per frame, the output of the GRU; the pooled vector is the last."""

    def __init__(self, spec: CnnRnnSpec) -> None:
        super().__init__()
        self.spec = spec
        self.dim = spec.dim
        self.frames = image_network(
            "backbone.frame_backbone", spec.frame_backbone, spec.size, spec.drop_path, spec.activation_checkpointing
        )
        self._layers = layers_of(self.frames)
        self.layers = max(self._layers.values()) + 1 + spec.depth
        self.recurrent = nn.GRU(features_of(self.frames), spec.dim, spec.depth, batch_first=True)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Initialise the GRU, with orthogonal recurrent weights; timm initialises the CNN."""
        self.recurrent.reset_parameters()
        for name, parameter in self.recurrent.named_parameters():
            if name.startswith("weight_hh"):
                for gate in parameter.chunk(3):
                    nn.init.orthogonal_(gate)

    def forward(self, frames_BCTHW: Tensor, pooled_only: bool = False) -> Tokens:
        frames_BTCHW = frames_BCTHW.transpose(1, 2)
        seen_BTE = self.frames(frames_BTCHW.flatten(0, 1)).unflatten(0, frames_BTCHW.shape[:2])
        known_BTD, _ = self.recurrent(seen_BTE)
        return Tokens(known_BTD[:, -1], known_BTD.unsqueeze(2)[:, :, : 0 if pooled_only else 1])

    def layer_of(self, name: str) -> int:
        first, _, rest = name.partition(".")
        if first == "frames":
            return self._layers[rest]
        return self.layers - self.spec.depth + int(rest.rpartition("_l")[2])

    def of_images(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Use the tensors of an image network for the frame network."""
        return of_network("frames", tensors)
