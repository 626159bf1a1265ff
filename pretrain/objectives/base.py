"""What an objective is to the training loop: the owner of models and loss, and all that the loop knows of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from trichord.pretrain.engine.parameter_groups import GroupRules, ParameterGroup
from trichord.shards.reading.batch import Batch


class StepOutput(NamedTuple):
    """What one (micro-)batch gave. `losses` and `health` are scalars to be logged, detached and means over samples.

    A tuple, for DeepSpeed must find the tensors in it to gather ZeRO 3's slices before the backward pass.
    """

    loss: Tensor  # the scalar to go backward from: a mean over this rank's samples
    losses: dict[str, Tensor]
    health: dict[str, Tensor]
    embeddings: dict[str, Tensor]  # detached BD, for the collapse watch


@dataclass(frozen=True)
class HealthRule:
    """When a logged figure means trouble, and what to try."""

    figure: str
    side: Literal["above", "below"]
    limit: float
    advice: str  # one plain sentence on what it means, one on what to try
    patience: int = 3  # log lines in a row before it is said
    from_step: int = 0


class Objective(nn.Module, ABC):
    """Owns models and loss. Frozen parameters (an EMA teacher) live in it as well, so that ZeRO shards them alike."""

    cast_to: torch.dtype | None = None  # autocast of the training step, set by the engine
    keeps_casts: bool = True  # whether cast weights are kept for the step; under ZeRO 3 they would be the whole model

    @abstractmethod
    def parameter_groups(self, rules: GroupRules) -> list[ParameterGroup]:
        """Share the trainable parameters out into groups, all of them, each once."""

    @abstractmethod
    def training_step(self, batch: Batch, step: int) -> StepOutput:
        """Give the loss of a batch, or of a part of one where gradients accumulate; tensors are on the device."""

    def preview(self, parts: Sequence[Batch], step: int, draw: Callable[[int], None]) -> None:
        """See all parts of a step, where gradients accumulate over several, before the first goes back.

        For a loss over all of them. `draw` seeds what the model draws for a part, as its training step will find it.
        """

    def as_read(self, batch: Batch) -> Batch:
        """Make of a batch of views what the stream of this run gives in their place."""
        return batch

    def after_update(self, step: int) -> None:
        """Follow the optimiser's update of this step: an EMA teacher, a centre, prototypes."""

    def state(self) -> dict[str, Tensor]:
        """Give what must survive a resume besides parameters and buffers; all ranks are asked, rank 0's counts."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave, maybe on another number of ranks."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, found {sorted(state)}")

    def health_rules(self) -> Sequence[HealthRule]:
        """Say which figures betray a run that learns nothing."""
        return ()

    def forward(self, batch: Batch, step: int) -> StepOutput:
        """Run the training step as DeepSpeed calls it, which switches off any autocast around it."""
        with self.casting(batch["valid"].device):
            return self.training_step(batch, step)

    def casting(self, device: torch.device) -> torch.autocast:
        """Give the autocast that the engine set."""
        on = self.cast_to is not None
        return torch.autocast(device.type, self.cast_to, enabled=on, cache_enabled=self.keeps_casts)
