"""Where k-means starts: at rows chosen by what they hold, so that neither their order nor the ranks have a say.

Every row has a number of its own, a random hash of its bits; a sample is the distinct rows with the lowest numbers.
So whoever holds the rows, the same are chosen, and a row that occurs often is chosen no more than once.
Legend: N rows of this rank, n of a chunk, D features, S rows of the sample over all ranks, s those of this rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pretrain.clustering.rows import Rows, TensorRows
from pretrain.collectives import gather_unequal_rows, rank


@dataclass(frozen=True)
class Sample:
    """This rank's part of the sample, lowest numbers first, and how many rows it has over all ranks."""

    rows_sD: Tensor
    numbers_s: Tensor
    count: int

    def first_rows(self, count: int) -> Tensor:
        """Gather the sample's first rows, in its order, the same on all ranks."""
        # No rank has more than `count` of them, whatever the others have.
        numbers = gather_unequal_rows(self.numbers_s[:count])
        rows_D = gather_unequal_rows(self.rows_sD[:count])
        return rows_D[numbers.argsort()[:count]]

    @property
    def rows(self) -> TensorRows:
        return TensorRows(self.rows_sD)


@torch.no_grad()
def draw_sample(rows: Rows, size: int, seed: int) -> Sample:
    """Draw up to `size` distinct rows of all ranks; fewer where there are not so many."""
    numbers_N = _number_rows(rows, seed)
    mine_s, place_s = _first_of_each(numbers_N)
    mine_s, place_s = mine_s[:size], place_s[:size]
    numbers, of = gather_unequal_rows(mine_s), gather_unequal_rows(torch.full_like(mine_s, rank()))
    # Sorted stably, so of a row that several ranks hold the lowest rank's comes first.
    kept, place = _first_of_each(numbers)
    kept, place = kept[:size], place[:size]
    is_mine_s = torch.isin(mine_s, kept[of[place] == rank()], assume_unique=True)
    return Sample(_take(rows, place_s[is_mine_s]), mine_s[is_mine_s], len(kept))


def _number_rows(rows: Rows, seed: int) -> Tensor:
    """Multiply a row's bits, 64 at a time, with random odd numbers, and add up, all modulo 2^64."""
    generator = torch.Generator().manual_seed(seed)
    words = (rows.dim + 1) // 2
    odd = torch.randint(-(2**63), 2**63 - 1, (words + 1,), generator=generator).bitwise_or_(1).to(rows.device)
    numbers = [torch.empty(0, dtype=torch.long, device=rows.device)]
    for rows_nD in rows.chunks():
        if rows.dim % 2:
            rows_nD = functional.pad(rows_nD, (0, 1))
        for part_nD in rows_nD.split(4096):
            sums_n = (part_nD.contiguous().view(torch.int64) * odd[:-1]).sum(dim=1)
            # The lowest bits of floats are mostly zeros; this lets the higher bits of the sum decide as well.
            numbers.append((sums_n ^ (sums_n >> 32)) * odd[-1])
    return torch.cat(numbers)


def _first_of_each(numbers_N: Tensor) -> tuple[Tensor, Tensor]:
    """Give the distinct numbers, ascending, and where each first occurs."""
    sorted_N, order_N = numbers_N.sort(stable=True)
    is_first_N = torch.ones_like(sorted_N, dtype=torch.bool)
    is_first_N[1:] = sorted_N[1:] != sorted_N[:-1]
    return sorted_N[is_first_N], order_N[is_first_N]


def _take(rows: Rows, place_s: Tensor) -> Tensor:
    """Read the rows at these places, in their order."""
    taken_sD = torch.empty(len(place_s), rows.dim, device=rows.device)
    ascending_s, order_s = place_s.sort()
    first = done = 0
    for rows_nD in rows.chunks():
        end = int(torch.searchsorted(ascending_s, first + len(rows_nD)))
        taken_sD[order_s[done:end]] = rows_nD[ascending_s[done:end] - first]
        first, done = first + len(rows_nD), end
    return taken_sD
