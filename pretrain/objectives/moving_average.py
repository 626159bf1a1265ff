"""A teacher that is the exponential moving average of its student's weights (Tarvainen and Valpola 2017)."""

from __future__ import annotations

from collections.abc import Iterator
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
    moving = [pair for old, new in pairs if new.requires_grad for pair in zip(_held(old), _held(new), strict=True)]
    if moving:
        old, new = zip(*moving, strict=True)
        torch._foreach_lerp_(old, new, 1 - momentum)
    for old_buffer, new_buffer in zip(teacher.buffers(), student.buffers(), strict=True):
        old_buffer.copy_(new_buffer)


def _held(parameter: Any) -> Iterator[Tensor]:
    """Give what this rank holds of a parameter: its slice, the whole, or both where ZeRO-3 keeps a small one whole."""
    if hasattr(parameter, "ds_tensor"):
        yield parameter.ds_tensor
    if not hasattr(parameter, "ds_tensor") or parameter.data.numel() == parameter.ds_numel:
        yield parameter.data
