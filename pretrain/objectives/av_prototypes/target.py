"""The interface of audio-visual targets, and the towers that make the embeddings.

A target computes a loss from pairs of embeddings, which it may store. A tower is one modality's network: an encoder,
its embedding head, and linear heads where there are labels to learn.
Legend: b samples of this rank, B samples, D features, K clusters.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from trichord.pretrain.backbones.base import Encoder
from trichord.pretrain.objectives.av_prototypes.rounds import Store


class Pair(NamedTuple):
    """The outputs of both towers for one clip of each sample."""

    video: TowerOutput
    audio: TowerOutput

    @property
    def is_comparable(self) -> bool:
        """Whether both modalities' embeddings lie in one space."""
        return self.video.unit_BD.shape[1] == self.audio.unit_BD.shape[1]

    def subject(self, name: str) -> Tensor:
        """Return the embeddings of a modality, or of both (`joint`) as one vector with the same norm."""
        if name == "joint":
            return torch.cat([self.video.unit_BD, self.audio.unit_BD], dim=1) / 2**0.5
        found: Tensor = getattr(self, name).unit_BD
        return found


class Samples(NamedTuple):
    """Metadata of a batch's samples."""

    keys: Sequence[str]
    labels: Sequence[tuple[int, ...]]
    valid_b: Tensor
    present_b: Tensor  # whether there is audio


# Returns what to cluster of a batch: embeddings_bD by subject, and which samples have them.
SelectEmbeddings = Callable[[Pair, Samples], tuple[dict[str, Tensor], dict[str, Tensor]]]


class FeaturePass(Protocol):
    """Callable that embeds the clips of the next `steps` steps without augmentation.

    The store of what `select` returns for them exists until the context manager exits.
    """

    def __call__(
        self, steps: int, dims: Mapping[str, int], select: SelectEmbeddings
    ) -> AbstractContextManager[Store]: ...


class TargetOutput(NamedTuple):
    """A target's loss, and figures to log."""

    loss: Tensor
    losses: dict[str, Tensor]
    health: dict[str, Tensor]


class Target(nn.Module, ABC):
    """A training target built from clusters."""

    @abstractmethod
    def compute_loss(self, pairs: Sequence[Pair], samples: Samples) -> TargetOutput:
        """Return the loss of a batch, with one or two pairs for each sample."""

    def after_update(self, step: int, run_pass: FeaturePass) -> None:
        """Run after each optimiser step."""

    def state(self) -> dict[str, Tensor]:
        """Return the state to save in a checkpoint."""
        return {}

    def load_state(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Load what `state` returned."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, found {sorted(state)}")


HIGHEST = 100.0


class TowerOutput(NamedTuple):
    """The outputs of a tower."""

    unit_BD: Tensor  # norm 1, float32
    logits_BK: list[Tensor]  # of each linear head, float32

    def parts(self, count: int) -> list[TowerOutput]:
        """Split the outputs of `count` concatenated inputs."""
        logits = zip(*(each_BK.chunk(count) for each_BK in self.logits_BK), strict=True)
        per_clip = [list(each) for each in logits] if self.logits_BK else [[] for _ in range(count)]
        return [TowerOutput(*both) for both in zip(self.unit_BD.chunk(count), per_clip, strict=True)]


class Tower(nn.Module):
    """One modality's network; its backbone is what is exported after pretraining."""

    def __init__(
        self, backbone: Encoder, embedding_dim: int | None, hidden_dim: int, classes: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.dim = embedding_dim or backbone.dim
        self.head: nn.Module = nn.Identity()
        if embedding_dim is not None:
            self.head = nn.Sequential(
                nn.Linear(backbone.dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, embedding_dim)
            )
        self.labels = nn.ModuleList(nn.Linear(backbone.dim, count) for count in classes)

    def forward(self, inputs: Tensor) -> TowerOutput:
        """Encode normalised frames, or spectrograms."""
        tokens: Any = self.backbone(inputs, pooled_only=True)
        wide_BD: Tensor = self.head(tokens.pooled_BD)
        exact = torch.promote_types(wide_BD.dtype, torch.float32)  # a norm computed in bfloat16 would be off by 1/400
        logits = [label(tokens.pooled_BD).to(exact) for label in self.labels]
        return TowerOutput(functional.normalize(wide_BD.to(exact), dim=1), logits)


class Temperature(nn.Module):
    """The scale of cosines, 1 / temperature, learnt as its logarithm and bounded (Radford et al. 2021)."""

    def __init__(self, temperature: float, is_learnt: bool) -> None:
        super().__init__()
        start = torch.tensor(1 / temperature).log()
        self.log_scale = nn.Parameter(start, requires_grad=is_learnt)

    def forward(self) -> Tensor:
        """Return the scale; at its bound the gradient still passes, so that it can decrease again."""
        beyond = (self.log_scale - math.log(HIGHEST)).clamp(min=0).detach()
        return (self.log_scale - beyond).exp()
