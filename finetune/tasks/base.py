"""A backbone under what is built on it: trained with it, left as it is, or left but for some parameters by name."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from trichord.core.errors import UserError
from trichord.finetune.tasks.spec import Modality, TaskSpec
from trichord.pretrain.backbones.base import Encoder
from trichord.pretrain.objectives.base import Objective
from trichord.shards.reading.batch import Batch


class OnTokens(Objective):
    """A task on backbones' tokens; with `reads_tokens` these stand in the batch, in the place of what is looked at."""

    spec: TaskSpec
    reads_tokens: bool

    @abstractmethod
    def tokens(self, modality: Modality, clips: Sequence[Tensor]) -> Tensor:
        """Give a frozen backbone's tokens of a batch of clips, uint8 frames or sound, to be read instead of these."""

    def as_read(self, batch: Batch) -> Batch:
        if not self.reads_tokens:
            return batch
        read = {sense: [self.tokens(sense, batch[sense])] for sense in self.spec.inputs}
        return Batch(**{**batch, **read})  # type: ignore[typeddict-item]


class Trunk(nn.Module):
    """Keeps a frozen backbone from training, whatever becomes of the rest."""

    def __init__(self, backbone: Encoder, is_frozen: bool, trained: Sequence[str] = ()) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(not is_frozen)
        self.is_frozen = is_frozen  # then dropout and the like stand still, too
        self.learns = not is_frozen or bool(trained)
        for pattern in trained:
            met = [each for name, each in backbone.named_parameters() if fnmatchcase(name, pattern)]
            for parameter in met:
                parameter.requires_grad_(True)
            if not met:
                names = ", ".join(name for name, _ in list(backbone.named_parameters())[:4])
                raise UserError(
                    f"objective.trained: {pattern!r} matches no parameter of the backbone. They are called {names}, …"
                )

    def train(self, mode: bool = True) -> Trunk:
        """Switch dropout and the like; a frozen backbone never trains."""
        super().train(mode)
        self.backbone.train(mode and not self.is_frozen)
        return self

    def looking(self) -> AbstractContextManager[object]:
        """Spare what only gradients need, while a backbone of which nothing learns is asked."""
        return nullcontext() if self.learns else torch.no_grad()
