"""The base of tasks on a backbone, which is trained, frozen, or frozen except for parameters selected by name."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from trichord.core.errors import UserError
from trichord.finetune.tasks.spec import TaskSpec
from trichord.pretrain.backbones.base import Encoder
from trichord.pretrain.engine.parameter_groups import GroupRules, ParameterGroup, group_parameters
from trichord.pretrain.objectives.base import Objective
from trichord.shards.reading.batch import Batch
from trichord.shards.sample_spec import Modality


class Task(Objective):
    """A task on backbones: each a `TaskBackbone`, in an attribute named after its modality."""

    spec: TaskSpec

    def parameter_groups(self, rules: GroupRules) -> list[ParameterGroup]:
        encoders = {
            f"{name}.backbone.": each.backbone
            for name, each in self.named_children()
            if isinstance(each, TaskBackbone) and each.learns
        }
        return group_parameters(self, rules, encoders)


class OnTokens(Task):
    """A task on backbones' tokens; with `reads_tokens` a batch contains the tokens in place of backbones' inputs."""

    reads_tokens: bool

    @abstractmethod
    def tokens(self, modality: Modality, clips: Sequence[Tensor]) -> Tensor:
        """Return a frozen backbone's tokens of a batch of clips (uint8 frames or audio), to be read in their place."""

    def as_read(self, batch: Batch) -> Batch:
        if not self.reads_tokens:
            return batch
        read = {modality: [self.tokens(modality, batch.inputs(modality))] for modality in self.spec.inputs}
        return batch.replace(**read)


class TaskBackbone(nn.Module):
    """A backbone that, if frozen, stays in eval mode when the rest of the model is in training mode."""

    def __init__(self, backbone: Encoder, is_frozen: bool, trained: Sequence[str] = ()) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(not is_frozen)
        self.is_frozen = is_frozen  # then dropout and similar layers are inactive, too
        self.learns = not is_frozen or bool(trained)
        for pattern in trained:
            matched = [each for name, each in backbone.named_parameters() if fnmatchcase(name, pattern)]
            for parameter in matched:
                parameter.requires_grad_(True)
            if not matched:
                names = ", ".join(name for name, _ in list(backbone.named_parameters())[:4])
                raise UserError(
                    f"objective.trained: {pattern!r} matches no parameter of the backbone. Parameter names: {names}, …"
                )

    def train(self, mode: bool = True) -> TaskBackbone:
        """Switch dropout and similar layers; a frozen backbone stays in eval mode."""
        super().train(mode)
        self.backbone.train(mode and not self.is_frozen)
        return self

    def gradient_context(self) -> AbstractContextManager[object]:
        """Return the context for the backbone's forward pass, which disables gradients if no parameter is trained."""
        return nullcontext() if self.learns else torch.no_grad()
