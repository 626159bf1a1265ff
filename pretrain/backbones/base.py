"""The interface of a backbone to objectives and heads: frames in, one pooled vector and a grid of tokens out.

Legend: B samples, C colours, T frames, H rows and W columns of pixels; D features, t steps and n places of tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor, nn

from trichord.pretrain.layers.transformer import Attention


class Tokens(NamedTuple):
    """The output of a video backbone for a batch of clips."""

    pooled_BD: Tensor
    grid_BtnD: Tensor  # without class tokens; places row by row; empty (n = 0) if only the pooled vector was requested


class Encoder(nn.Module, ABC):
    """The base class of the backbones of all modalities."""

    dim: int  # features of the pooled vector and of each token
    layers: int  # for layer-wise learning rates: embeddings are layer 0, block i is i + 1, the rest is layers - 1
    # Name parts, spatial to temporal: init_from.time_from_space copies the first where a file lacks the second.
    time_from_space: Mapping[str, str] = MappingProxyType({})
    is_joint = False  # whether its vectors lie in a space shared by several modalities, as CLIP's do
    never_decayed: tuple[str, ...] = ()  # name patterns of parameters that weight decay would harm

    @abstractmethod
    def layer_of(self, name: str) -> int:
        """Return the layer of a parameter, given the parameter's name within the backbone."""

    def count_as_published(self) -> None:
        """Compute each layer by itself from now on, as papers count operations, where some are merged for speed."""

    def of_images(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Convert the tensors of a published image model for this backbone; leave those of a video model unchanged."""
        return tensors

    def resized(self, name: str, tensor: Tensor, place: Tensor) -> Tensor | None:
        """Resize a published tensor to the shape of `place`, as for position tables; None if that is not possible."""
        return None


class Backbone(Encoder):
    """A video encoder. It accepts any number of frames and any size that is a multiple of its patch size."""

    @abstractmethod
    def forward(self, frames_BCTHW: Tensor, pooled_only: bool = False) -> Tokens:
        """Encode normalised frames; with `pooled_only`, skip the computation that only the grid needs."""

    @property
    def class_attention(self) -> Attention | None:
        """The last layer in which class tokens attend, each to the places of its step or one to all; None without any.

        Class tokens come first in its input, the grid's tokens follow in order.
        """
        return None

    @property
    def place_dim(self) -> int:
        """The number of features of the tokens that `encode_grid` returns."""
        return self.dim

    def encode_grid(self, frames_BCTHW: Tensor) -> Tokens:
        """Encode as `forward` does, but return the grid before its projection into the space of the pooled vectors."""
        tokens: Tokens = self(frames_BCTHW)
        return tokens


class AudioTokens(NamedTuple):
    """The output of an audio backbone for a batch of sounds."""

    pooled_BD: Tensor
    grid_BtmD: Tensor  # without class tokens; empty (m = 0) if only the pooled vector was requested


class AudioBackbone(Encoder):
    """An audio encoder; its input is the output of `trichord.shards.audio.spectrogram`: normalised, time first."""

    @abstractmethod
    def forward(self, audio_BTM: Tensor, pooled_only: bool = False) -> AudioTokens:
        """Encode spectrograms; with `pooled_only`, skip the computation that only the grid needs."""


class TextBackbone(Encoder):
    """A text encoder with its own tokenizer."""

    @abstractmethod
    def tokenise(self, texts: Sequence[str]) -> Tensor:
        """Tokenise texts into tokens_KL; texts that are too long are truncated."""

    @abstractmethod
    def forward(self, tokens_KL: Tensor) -> Tensor:
        """Return vectors_KD, not normalised."""

    def load_own(self) -> None:
        """Load the pretrained weights named in its settings, if there are any."""
