"""What a backbone is to objectives and heads: frames in, one pooled vector and a grid of tokens out.

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
    """What a backbone makes of a batch of clips."""

    pooled_BD: Tensor
    grid_BtnD: Tensor  # without class tokens; places row by row; no places where only the pooled vector was asked for


class Encoder(nn.Module, ABC):
    """What backbones of every sense have in common."""

    dim: int  # features of the pooled vector and of each token
    layers: int  # layers for layer-wise learning rates: embeddings are 0, block i is i + 1, what follows is layers - 1
    # Parts of names, space's and time's: where a file has only the first, init_from.time_from_space copies it.
    time_from_space: Mapping[str, str] = MappingProxyType({})
    is_joint = False  # whether its vectors lie in a space that was made for several senses, as CLIP's do
    never_decayed: tuple[str, ...] = ()  # patterns of names of parameters that weight decay would spoil

    @abstractmethod
    def layer_of(self, name: str) -> int:
        """Say to which layer one of its parameters belongs, by the parameter's name within the backbone."""

    def of_images(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Make what a published model of images holds into what this backbone begins with; leave one of video alone."""
        return tensors

    def resized(self, name: str, tensor: Tensor, place: Tensor) -> Tensor | None:
        """Make a published tensor of another shape fit its place, as tables of positions can; None where none can."""
        return None


class Backbone(Encoder):
    """A video encoder. Any number of frames and any size its patches divide are taken at run time."""

    @abstractmethod
    def forward(self, frames_BCTHW: Tensor, pooled_only: bool = False) -> Tokens:
        """Encode normalised frames; who needs the pooled vector only may spare what only the grid needs."""

    @property
    def class_attention(self) -> Attention | None:
        """Give the layer where class tokens look last: each at its own step's places, or one at all; None without any.

        Class tokens stand first there, the grid's follow in order.
        """
        return None

    @property
    def place_dim(self) -> int:
        """Say how many features tokens of `see_places` have."""
        return self.dim

    def see_places(self, frames_BCTHW: Tensor) -> Tokens:
        """Encode as `forward` does, with the grid as it is before anything brings it into the pooled vectors' space."""
        tokens: Tokens = self(frames_BCTHW)
        return tokens


class AudioTokens(NamedTuple):
    """What an audio backbone makes of a batch of sounds."""

    pooled_BD: Tensor
    grid_BtmD: Tensor  # without class tokens; no bands where only the pooled vector was asked for


class AudioBackbone(Encoder):
    """An encoder of sound, in the form that `shards.hearing.spectrogram` gives it: normalised, time first."""

    @abstractmethod
    def forward(self, audio_BTM: Tensor, pooled_only: bool = False) -> AudioTokens:
        """Encode spectrograms; who needs the pooled vector only may spare what only the grid needs."""


class TextBackbone(Encoder):
    """An encoder of text that knows how its texts are cut into tokens."""

    @abstractmethod
    def tokenise(self, texts: Sequence[str]) -> Tensor:
        """Cut texts into tokens_KL; one that is too long loses its end."""

    @abstractmethod
    def forward(self, tokens_KL: Tensor) -> Tensor:
        """Give vectors_KD, not of length 1."""

    def load_own(self) -> None:
        """Take the weights that its settings name, if they name any."""
