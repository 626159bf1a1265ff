"""First weights of a network, by the width of what its maps look at, as CLIP draws them: they suit any width."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def draw_by_width(module: nn.Module) -> None:
    """Draw all linear maps of a module with a deviation of 1 / sqrt(inputs); reset its norms and convolutions."""
    for each in module.modules():
        if isinstance(each, nn.Linear):
            nn.init.trunc_normal_(each.weight, std=each.in_features**-0.5)
            if each.bias is not None:
                nn.init.zeros_(each.bias)
        elif isinstance(each, nn.LayerNorm | nn.Conv2d):
            each.reset_parameters()
