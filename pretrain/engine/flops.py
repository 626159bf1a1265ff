"""Floating-point operations of a training step, the basis of MFU and of the dry run's hours.

Matrix products, convolutions and attention are counted, forward and backward; a multiplication and an addition count as
two. What is recomputed to save memory (activation checkpointing, the scores of fused attention) is not counted, so that
recomputation does not increase MFU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine.rehearsal import rehearse

Shape = Sequence[int]


def _attention_forward(queries: Shape, keys: Shape, values: Shape, *rest: Any, **named: Any) -> int:
    return int(sdpa_flop_count(queries, keys, values))


def _attention_backward(gradient: Shape, queries: Shape, keys: Shape, values: Shape, *rest: Any, **named: Any) -> int:
    """Count two gradients for each of two products; the kernel's recomputation of the scores is not counted."""
    return 2 * _attention_forward(queries, keys, values)


# torch counts attention on GPUs, but not the CPU kernel.
_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_forward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def count_flops(work: Callable[[], object]) -> int:
    """Run `work` once and return its operations; compiled modules run in eager mode."""
    counter = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
    with torch.compiler.set_stance("force_eager"), counter:
        work()
    return int(counter.get_total_flops())


def training_flops(config: RunConfig, micro_batch: int) -> int:
    """Return the operations of a micro-batch's forward and backward on one rank; takes a second or two."""
    with rehearse(config, micro_batch, checkpoints_activations=False) as rehearsal:
        return count_flops(lambda: rehearsal.forward().backward())
