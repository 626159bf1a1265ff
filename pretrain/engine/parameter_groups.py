"""Which parameters share a learning rate and a weight decay: groups made by rule from the parameters' names and shapes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from pretrain.engine.config import GroupRules

__all__ = ["GroupRules", "ParameterGroup"]


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that are treated alike; scales multiply what the schedules say."""

    name: str
    parameters: dict[str, nn.Parameter]
    lr_scale: float = 1.0
    decay_scale: float = 1.0  # 0: no weight decay
    frozen_steps: int = 0  # the learning rate is 0 before this step
