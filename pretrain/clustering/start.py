"""Initial centroids of k-means: rows chosen by their values, independent of their order and of the number of ranks.

Every row has a number, a random hash of its bits; a sample is the distinct rows with the lowest numbers. So the same
rows are chosen whichever rank holds them, and a row that occurs several times is chosen at most once.
From the sample, greedy k-means++ (Arthur and Vassilvitskii 2007) draws a few candidates with probability proportional
to their squared distance from the rows chosen so far, and keeps the one that lowers the sum of these distances most.
Legend: N rows of this rank, n of a chunk, s rows of this rank's part of a sample, S rows, D features, K clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from trichord.pretrain.clustering.rows import EmbeddingRows, TensorRows
from trichord.pretrain.collectives import gather_unequal_rows, of_first_rank, rank

# The time of k-means++ grows with the square of the number of clusters; above this number, random rows are used.
MOST_SPREAD = 4096
SPREAD_PER_CLUSTER = 16  # rows that k-means++ chooses from
_CANDIDATES = 4


@dataclass(frozen=True)
class Sample:
    """This rank's part of the sample, lowest numbers first, and the sample's row count over all ranks."""

    rows_sD: Tensor
    numbers_s: Tensor
    count: int

    def first_rows(self, count: int) -> Tensor:
        """Return the sample's first rows, in its order, the same on all ranks."""
        # No rank holds more than `count` of them.
        numbers = gather_unequal_rows(self.numbers_s[:count])
        rows_D = gather_unequal_rows(self.rows_sD[:count])
        return rows_D[numbers.argsort()[:count]]

    @property
    def rows(self) -> TensorRows:
        return TensorRows(self.rows_sD)


@torch.no_grad()
def choose_start(sample: Sample, clusters: int, seed: int) -> Tensor:
    """Return start_KD, rows of the sample that lie far apart, the same on all ranks."""
    if clusters > MOST_SPREAD:
        return sample.first_rows(clusters)
    start_KD = _spread(sample.first_rows(SPREAD_PER_CLUSTER * clusters), clusters, seed)
    return of_first_rank(start_KD)


def _spread(rows_SD: Tensor, clusters: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    lengths_S = rows_SD.square().sum(dim=1)
    chosen_K = torch.zeros(clusters, dtype=torch.long, device=rows_SD.device)  # row 0 first: their order is random
    squares_S = _squares(rows_SD, lengths_S, chosen_K[:1])[:, 0]
    for number in range(1, clusters):
        mass_S = squares_S.double().cumsum(dim=0)
        drawn = torch.rand(_CANDIDATES, generator=generator, dtype=torch.float64).to(mass_S.device) * mass_S[-1]
        candidates = torch.searchsorted(mass_S, drawn, right=True).clamp(max=len(rows_SD) - 1)
        with_each_SC = torch.minimum(squares_S[:, None], _squares(rows_SD, lengths_S, candidates))
        best = with_each_SC.sum(dim=0).argmin()
        chosen_K[number] = candidates[best]
        squares_S = with_each_SC[:, best].contiguous()
    return rows_SD[chosen_K]


def _squares(rows_SD: Tensor, lengths_S: Tensor, chosen_C: Tensor) -> Tensor:
    """Return squared distances_SC from these rows to the chosen ones; a chosen row is exactly 0 from itself."""
    squares_SC = lengths_S[:, None] + lengths_S[chosen_C] - 2 * (rows_SD @ rows_SD[chosen_C].T)
    squares_SC[chosen_C, torch.arange(len(chosen_C), device=chosen_C.device)] = 0
    return squares_SC.clamp_(min=0)


@torch.no_grad()
def draw_sample(rows: EmbeddingRows, size: int, seed: int) -> Sample:
    """Draw up to `size` distinct rows of all ranks, fewer if there are not that many."""
    numbers_N = _number_rows(rows, seed)
    mine_s, place_s = _first_of_each(numbers_N)
    mine_s, place_s = mine_s[:size], place_s[:size]
    numbers, of = gather_unequal_rows(mine_s), gather_unequal_rows(torch.full_like(mine_s, rank()))
    # The sort is stable: of a row that several ranks hold, the lowest rank's copy comes first.
    kept, place = _first_of_each(numbers)
    kept, place = kept[:size], place[:size]
    is_mine_s = torch.isin(mine_s, kept[of[place] == rank()], assume_unique=True)
    return Sample(_take(rows, place_s[is_mine_s]), mine_s[is_mine_s], len(kept))


def _number_rows(rows: EmbeddingRows, seed: int) -> Tensor:
    """Return each row's hash: its bits, 64 at a time, times random odd numbers, summed modulo 2^64."""
    generator = torch.Generator().manual_seed(seed)
    words = (rows.dim + 1) // 2
    odd = torch.randint(-(2**63), 2**63 - 1, (words + 1,), generator=generator).bitwise_or_(1).to(rows.device)
    numbers = [torch.empty(0, dtype=torch.long, device=rows.device)]
    for rows_nD in rows.chunks():
        if rows.dim % 2:
            rows_nD = functional.pad(rows_nD, (0, 1))
        for part_nD in rows_nD.split(4096):
            sums_n = (part_nD.contiguous().view(torch.int64) * odd[:-1]).sum(dim=1)
            # The lowest bits of floats are mostly zeros; this mixes in the higher bits of the sum.
            numbers.append((sums_n ^ (sums_n >> 32)) * odd[-1])
    return torch.cat(numbers)


def _first_of_each(numbers_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct numbers in ascending order, and the index where each first occurs."""
    sorted_N, order_N = numbers_N.sort(stable=True)
    is_first_N = torch.ones_like(sorted_N, dtype=torch.bool)
    is_first_N[1:] = sorted_N[1:] != sorted_N[:-1]
    return sorted_N[is_first_N], order_N[is_first_N]


def _take(rows: EmbeddingRows, place_s: Tensor) -> Tensor:
    """Return the rows at these indices, in this order."""
    taken_sD = torch.empty(len(place_s), rows.dim, device=rows.device)
    ascending_s, order_s = place_s.sort()
    first = done = 0
    for rows_nD in rows.chunks():
        end = int(torch.searchsorted(ascending_s, first + len(rows_nD)))
        taken_sD[order_s[done:end]] = rows_nD[ascending_s[done:end] - first]
        first, done = first + len(rows_nD), end
    return taken_sD
