"""Activation checkpointing: activations of a block are not kept but recomputed in the backward pass."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

_NO_BACKWARD_PASS = -1  # torch's id of the current backward pass if none is running


def run(block: nn.Module, *arguments: Tensor | bool, forgets: bool) -> Any:
    """Run a block, with activation checkpointing if `forgets`; the result does not depend on it."""
    if forgets and torch.is_grad_enabled():
        return checkpoint(block, *arguments, use_reentrant=False)
    return block(*arguments)


def count_batches_once(network: nn.Module) -> None:
    """Make batch norms update their running statistics only in the forward pass, not in recomputation."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(partial(_update_in_forward_only, module.momentum))


def _update_in_forward_only(momentum: float | None, norm: _BatchNorm, _: object) -> None:
    if torch.compiler.is_compiling():  # it separates state updates from recomputation itself
        return
    is_recomputed = torch._C._current_graph_task_id() != _NO_BACKWARD_PASS
    norm.momentum = 0.0 if is_recomputed else momentum
    if is_recomputed and norm.num_batches_tracked is not None:
        norm.num_batches_tracked -= 1  # recomputation adds 1
