"""What becomes of clusters without rows, and of giants: another one is split in two, by chance that all ranks share.

Everything is decided on figures that are the same on all ranks, so no rank has to tell another.
Legend: K clusters, D features.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trichord.pretrain.clustering.sweep import Sweep

# How far the halves of a cluster are put from where it was, in its radii: enough for every row to be nearer to one of
# them, too little to come between the neighbours.
_SPLIT = 0.05
# Rows nearer to their centroid than this, relative to their length and squared, are one row to float32.
_LEAST_SPREAD = 1e-9


@dataclass(frozen=True)
class Repaired:
    """Centroids, and how many of them were moved."""

    centroids_KD: Tensor
    empty: int  # had no rows, and took half of the cluster with the greatest squared distances
    giant: int  # had the fewest rows, and took half of a giant


def repair(centroids_KD: Tensor, found: Sweep, most_rows: float, generator: torch.Generator) -> Repaired:
    """Give each empty cluster half of the widest one, and the smallest clusters halves of those above `most_rows`."""
    splitting = _Splitting(centroids_KD.clone(), found, generator)
    counts = splitting.counts
    by_size = sorted(range(len(counts)), key=lambda number: counts[number])
    empty = [number for number in by_size if counts[number] == 0]
    filled = splitting.split(splitting.squares, empty, above=0.0)
    halved = splitting.split(counts, by_size[len(empty) :], above=most_rows)
    return Repaired(splitting.centroids_KD, filled, halved)


class _Splitting:
    """Centroids as they move, with what is expected of the clusters' figures."""

    def __init__(self, centroids_KD: Tensor, found: Sweep, generator: torch.Generator) -> None:
        self.centroids_KD, self._generator = centroids_KD, generator
        self.counts: list[float] = found.counts_K.tolist()
        self.squares: list[float] = found.squares_K.tolist()
        self._lengths: list[float] = found.lengths_K.tolist()

    def split(self, weights: Sequence[float], takers: Sequence[int], above: float) -> int:
        """Halve the heaviest cluster as long as it weighs more than this, and a taker is left; count how often."""
        heap = [(-weight, number) for number, weight in enumerate(weights) if weight > above and self._is_wide(number)]
        heapq.heapify(heap)
        done, givers = 0, set()
        for taker in takers:
            if not heap:
                break
            if taker in givers:
                continue
            _, giver = heapq.heappop(heap)
            if giver == taker:
                break
            self._halve(giver, taker)
            givers |= {giver, taker}
            done += 1
            for number in (giver, taker):
                if weights[number] > above:
                    heapq.heappush(heap, (-weights[number], number))
        return done

    def _is_wide(self, number: int) -> bool:
        return self.squares[number] > _LEAST_SPREAD * self._lengths[number]

    def _halve(self, giver: int, taker: int) -> None:
        dim = self.centroids_KD.shape[1]
        radius = (self.squares[giver] / self.counts[giver]) ** 0.5
        signs_D = torch.randint(0, 2, (dim,), generator=self._generator).mul_(2).sub_(1).to(self.centroids_KD)
        away_D = signs_D * (_SPLIT * radius / dim**0.5)
        self.centroids_KD[taker] = self.centroids_KD[giver] + away_D
        self.centroids_KD[giver] -= away_D
        for figures in (self.counts, self.squares, self._lengths):
            figures[giver] /= 2
            figures[taker] = figures[giver]
