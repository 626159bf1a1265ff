"""The interface between an objective, which owns the models and the loss, and the training loop."""

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
    """The result of one (micro-)batch. `losses` and `health` are scalars to log: detached means over samples.

    A tuple, because DeepSpeed must find the tensors in it to gather ZeRO 3's slices before the backward pass.
    """

    loss: Tensor  # the scalar to backpropagate: a mean over this rank's samples
    losses: dict[str, Tensor]
    health: dict[str, Tensor]
    embeddings: dict[str, Tensor]  # detached, BD, for the collapse check


@dataclass(frozen=True)
class HealthRule:
    """The condition under which a logged figure indicates a problem, and what to try then."""

    figure: str
    side: Literal["above", "below"]
    limit: float
    advice: str  # one sentence on what it means, one on what to try
    patience: int = 3  # consecutive log lines before the advice is printed
    from_step: int = 0


class Objective(nn.Module, ABC):
    """A module that owns models and loss, and frozen parameters (an EMA teacher), so that ZeRO shards them alike."""

    cast_to: torch.dtype | None = None  # autocast of the training step, set by the engine
    keeps_casts: bool = True  # whether cast weights are cached for the step; under ZeRO 3 they would be the whole model

    @abstractmethod
    def parameter_groups(self, rules: GroupRules) -> list[ParameterGroup]:
        """Return the groups of trainable parameters; each parameter is in exactly one group."""

    @abstractmethod
    def training_step(self, batch: Batch, step: int) -> StepOutput:
        """Return the loss of a batch, or of one part where gradients accumulate; tensors are on the device."""

    def preview(self, parts: Sequence[Batch], step: int, draw: Callable[[int], None]) -> None:
        """Process all parts of a step with gradient accumulation before the first backward pass.

        Needed for a loss over all parts. `draw(n)` seeds the model's randomness for part n as its training step will.
        """

    def as_read(self, batch: Batch) -> Batch:
        """Replace the views of a batch by what the data stream of this run yields in their place."""
        return batch

    def after_update(self, step: int) -> None:
        """Update what follows the optimiser's step: an EMA teacher, a centre, prototypes."""

    def state(self) -> dict[str, Tensor]:
        """Return the state to save besides parameters and buffers; called on all ranks, rank 0's result is saved."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state` returned, possibly on another number of ranks."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, found {sorted(state)}")

    def health_rules(self) -> Sequence[HealthRule]:
        """Return the rules that detect a run which does not learn."""
        return ()

    def forward(self, batch: Batch, step: int) -> StepOutput:
        """Run the training step under the engine's autocast; DeepSpeed disables any autocast around this call."""
        with self.casting(batch.valid.device):
            return self.training_step(batch, step)

    def casting(self, device: torch.device) -> torch.autocast:
        """Return the autocast context that the engine set."""
        on = self.cast_to is not None
        return torch.autocast(device.type, self.cast_to, enabled=on, cache_enabled=self.keeps_casts)
