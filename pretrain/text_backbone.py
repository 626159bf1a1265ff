"""What a text encoder is to objectives: texts in, one vector of each out.

Legend: K texts, L tokens of each, D features.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from trichord.pretrain.backbone import Encoder


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
