"""The settings of a convolutional network for frames with a recurrent network over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from trichord.pretrain.backbones.spec import FROM_RESNET, BackboneSpec, Size


class CnnRnnSpec(BackboneSpec):
    """A CNN for each frame and a GRU over frames; by default a ResNet-50 and one layer."""

    builds: ClassVar[str] = "trichord.pretrain.backbones.cnn_rnn.model:CnnRnn"

    kind: Literal["cnn_rnn"] = "cnn_rnn"
    frames: PositiveInt = 16
    frame_backbone: str = "resnet50"
    """Image network for each frame: the name of a model of timm."""
    dim: PositiveInt = 512
    """Number of features of the GRU, and so of the pooled vector."""
    depth: PositiveInt = 1
    """Number of layers of the GRU."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Probability of skipping the last block's residual branch in the frame network in training; it grows from 0 in the
    first block."""

    @classmethod
    def sizes(cls) -> Mapping[str, Size]:
        return {"cnn-rnn-resnet50": Size(cls(), FROM_RESNET)}
