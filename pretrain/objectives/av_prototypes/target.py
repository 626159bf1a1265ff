"""What audio-visual targets have in common: they look at pairs of embeddings, may remember them, and give a loss.

Legend: b samples of this rank.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from trichord.pretrain.objectives.av_prototypes.rounds import Store
from trichord.pretrain.objectives.av_prototypes.tower import Seen


class Pair(NamedTuple):
    """What both towers make of a clip of each sample."""

    video: Seen
    audio: Seen

    @property
    def is_comparable(self) -> bool:
        """Say whether both senses' embeddings lie in one space."""
        return self.video.unit_BD.shape[1] == self.audio.unit_BD.shape[1]

    def subject(self, name: str) -> Tensor:
        """Give the embeddings of a sense, or of both senses as one vector of the same length."""
        if name == "joint":
            return torch.cat([self.video.unit_BD, self.audio.unit_BD], dim=1) / 2**0.5
        found: Tensor = getattr(self, name).unit_BD
        return found


class Samples(NamedTuple):
    """What is known of a batch's samples besides what they show."""

    keys: Sequence[str]
    labels: Sequence[tuple[int, ...]]
    valid_b: Tensor
    present_b: Tensor  # whether there is sound


# What is clustered of a batch: embeddings_bD by subject, and which samples have them.
Shown = Callable[[Pair, Samples], tuple[dict[str, Tensor], dict[str, Tensor]]]


class Look(Protocol):
    """Embeds the clips of so many coming steps as they are, and keeps what is shown of them while it is entered."""

    def __call__(self, steps: int, dims: Mapping[str, int], shown: Shown) -> AbstractContextManager[Store]: ...


class Judged(NamedTuple):
    """A target's loss, and figures to be logged."""

    loss: Tensor
    losses: dict[str, Tensor]
    health: dict[str, Tensor]


class Target(nn.Module, ABC):
    """A target made of clusters."""

    @abstractmethod
    def judge(self, pairs: Sequence[Pair], samples: Samples) -> Judged:
        """Give the loss of a batch, of which each sample has one pair or two."""

    def after_update(self, step: int, look: Look) -> None:
        """Do what follows a step."""

    def state(self) -> dict[str, Tensor]:
        """Give what must survive a resume."""
        return {}

    def load_state(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Take it back."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, found {sorted(state)}")
