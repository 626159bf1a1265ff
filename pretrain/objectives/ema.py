"""A teacher that is the exponential moving average of its student's weights (Tarvainen and Valpola 2017)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher = momentum * teacher + (1 - momentum) * student; buffers are copied.

    Under ZeRO-3 each rank moves its own slice: equal modules are sliced alike, so nothing is communicated. A student's
    parameter that takes no gradient is what it was when the teacher was made.
    """
    pairs = zip(teacher.parameters(), student.parameters(), strict=True)
    moving = [(_held(old), _held(new)) for old, new in pairs if new.requires_grad]
    if moving:
        old, new = zip(*moving, strict=True)
        torch._foreach_lerp_(old, new, 1 - momentum)
    for old_buffer, new_buffer in zip(teacher.buffers(), student.buffers(), strict=True):
        old_buffer.copy_(new_buffer)


def _held(parameter: Any) -> Tensor:
    """Give what this rank holds of a parameter: its slice under ZeRO-3, which keeps no whole beside it here."""
    held: Tensor = parameter.ds_tensor if hasattr(parameter, "ds_tensor") else parameter.data
    return held
