"""The collectives that objectives use; without a process group each is the identity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of ranks, 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process, 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


@torch.no_grad()
def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sum a tensor over all ranks in place, without gradient."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


@torch.no_grad()
def of_first_rank(tensor: Tensor) -> Tensor:
    """Return rank 0's values, for decisions that must agree: different processors differ in the last digit."""
    return sum_over_ranks(tensor.clone() if rank() == 0 else torch.zeros_like(tensor))


@torch.no_grad()
def gather_rows(rows_BD: Tensor) -> Tensor:
    """Concatenate every rank's rows in the order of ranks; all ranks pass equally many, and no gradient flows."""
    if world_size() == 1:
        return rows_BD
    gathered_ND = rows_BD.new_empty(world_size() * len(rows_BD), *rows_BD.shape[1:])
    dist.all_gather_single(gathered_ND, rows_BD.contiguous())  # into one tensor: all rows can take a lot of memory
    return gathered_ND


@torch.no_grad()
def gather_unequal_rows(rows_nD: Tensor) -> Tensor:
    """Concatenate every rank's rows in the order of ranks; a rank may pass any number, and no gradient flows."""
    if world_size() == 1:
        return rows_nD
    counts = gather_rows(torch.tensor([len(rows_nD)], device=rows_nD.device)).tolist()
    padded_mD = rows_nD.new_zeros(max(counts), *rows_nD.shape[1:])
    padded_mD[: len(rows_nD)] = rows_nD
    blocks = gather_rows(padded_mD).split(max(counts)) if max(counts) else [padded_mD] * len(counts)
    return torch.cat([block_mD[:count] for block_mD, count in zip(blocks, counts, strict=True)])


def gather_texts(texts: Sequence[str]) -> list[str]:
    """Concatenate every rank's texts in the order of ranks; a rank may pass any number."""
    encoded = [text.encode() for text in texts]
    lengths = gather_unequal_rows(torch.tensor([len(each) for each in encoded], dtype=torch.int64))
    bytes_N = gather_unequal_rows(torch.from_numpy(np.frombuffer(b"".join(encoded), dtype=np.uint8).copy()))
    pieces = bytes_N.numpy().tobytes()
    ends = lengths.cumsum(0).tolist()
    return [pieces[end - length : end].decode() for end, length in zip(ends, lengths.tolist(), strict=True)]


def mean_over_ranks(values_b: Tensor, weights_b: Tensor) -> Tensor:
    """Return this rank's part of the weighted mean over all ranks' values: the mean of the parts is the weighted mean.

    Values with zero weight are ignored, even if they are not finite; if all weights are zero, the mean is 0.
    """
    weights_b = weights_b.to(values_b.dtype)
    total = sum_over_ranks(weights_b.sum().detach().clone())
    weighted_b = torch.where(weights_b > 0, values_b * weights_b, values_b.new_zeros(()))
    return weighted_b.sum() * world_size() / torch.where(total > 0, total, torch.ones_like(total))
