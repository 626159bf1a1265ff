"""Shared-memory tensors used in turn by a worker: fresh ones would cost a page fault per 4 kB, a tenth of decoding.

torch's loader asks a worker for part k only after part k - prefetch was taken from it, and whoever takes parts here
copies them before taking the next. So with prefetch + 1 buffers in turn, none is written while it is still read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Stacker(Protocol):
    """Stacks tensors of one shape; `name` tells the batch's tensors apart."""

    def __call__(self, name: str, tensors: Sequence[Tensor]) -> Tensor: ...


class SharedRing:
    """For each name as many buffers as batches may be on their way."""

    def __init__(self, buffers: int) -> None:
        self._buffers = buffers
        self._rings: dict[str, deque[Tensor]] = {}

    def __call__(self, name: str, tensors: Sequence[Tensor]) -> Tensor:
        """Stack into the buffer that was used longest ago; called once per name and batch."""
        first = tensors[0]
        shape = (len(tensors), *first.shape)
        ring = self._rings.get(name)
        if ring is None or ring[0].shape != shape or ring[0].dtype != first.dtype:
            ring = self._rings[name] = deque(_make_shared(shape, first.dtype) for _ in range(self._buffers))
        ring.rotate(1)
        return torch.stack(list(tensors), out=ring[0])


def _make_shared(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    tensor = torch.empty(shape, dtype=dtype)
    tensor.untyped_storage().share_memory_()
    return tensor


def stack_anew(name: str, tensors: Sequence[Tensor]) -> Tensor:
    """Stack into memory of this process alone."""
    return torch.stack(list(tensors))
