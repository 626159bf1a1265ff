"""Activation checkpointing: a block's insides are forgotten going forward and computed again going backward."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

_NO_WAY_BACK = -1  # what torch calls the number of the backward pass where none runs


def run(block: nn.Module, *arguments: Tensor | bool, forgets: bool) -> Any:
    """Run a block; what it computes does not depend on whether it forgets."""
    if forgets and torch.is_grad_enabled():
        return checkpoint(block, *arguments, use_reentrant=False)
    return block(*arguments)


def count_batches_once(network: nn.Module) -> None:
    """Let batch norms take note of a batch going forward alone, and not again where it is computed once more."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(partial(_take_note_going_forward, module.momentum))


def _take_note_going_forward(momentum: float | None, norm: _BatchNorm, _: object) -> None:
    if torch.compiler.is_compiling():  # which keeps what changes a network apart from what is computed again
        return
    goes_back = torch._C._current_graph_task_id() != _NO_WAY_BACK
    norm.momentum = 0.0 if goes_back else momentum
    if goes_back and norm.num_batches_tracked is not None:
        norm.num_batches_tracked -= 1  # what is computed again adds 1
