"""Activation checkpointing: a block's insides are forgotten going forward and computed again going backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def run(block: nn.Module, *arguments: Tensor | bool, forgets: bool) -> Any:
    """Run a block; what it computes does not depend on whether it forgets."""
    if forgets and torch.is_grad_enabled():
        return checkpoint(block, *arguments, use_reentrant=False)
    return block(*arguments)
