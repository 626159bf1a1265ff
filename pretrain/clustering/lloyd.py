"""K-means over rows that all ranks hold together: Lloyd's iterations (1957), the same on every rank.

Each rank passes over its own rows; one message adds up the clusters' sums and counts; every rank then moves the
centroids by the same arithmetic. Spherical k-means (Dhillon and Modha 2001) only puts them back onto the unit sphere.
A first start is made on a sample, by greedy k-means++ and k-means. That costs little and ends in no worse an optimum
than k-means++ or random rows alone; where rows lie in blobs, in one half as high as from random rows.
Legend: N rows of this rank, D features, K clusters.

What becomes of clusters without rows, and of giants: another one is split in two, by chance that all ranks share.

Everything is decided on figures that are the same on all ranks, so no rank has to tell another.
Legend: K clusters, D features.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from trichord.core.errors import RunStopped
from trichord.pretrain.clustering.rows import Rows
from trichord.pretrain.clustering.start import choose_start, draw_sample
from trichord.pretrain.clustering.sweep import Sweep, sweep
from trichord.pretrain.collectives import sum_over_ranks

SAMPLE_PER_CLUSTER = 64  # rows of the sample that a first start is made on
SAMPLE_ITERATIONS = 10
GIANT = 20.0  # times the mean size; so giants can cost no more than a tenth of the clusters
STILL = 1e-6  # a share by which the objective falls at least, or it no longer moves
# Of the mean squared length, what is left around the mean: below it all rows are one, but for rounding.
LEAST_SPREAD = 1e-6


class ClusteringStopped(RunStopped):
    """The rows cannot be clustered, and more training on what comes of them would be in vain."""


@dataclass(frozen=True)
class Clustering:
    """Centroids, this rank's labels by them, and figures over all ranks' rows."""

    centroids_KD: Tensor
    labels_N: Tensor
    counts_K: Tensor
    distances_K: Tensor  # sums of distances to the centroid, what `concentration` is made of
    objective: float  # the mean squared distance to the nearest centroid
    iterations: int  # how often centroids were moved to the mean of all their rows
    repaired_empty: int
    split_giant: int


@torch.no_grad()
def cluster(
    rows: Rows,
    clusters: int,
    *,
    start_KD: Tensor | None = None,
    iterations: int = 20,
    seed: int = 0,
    spherical: bool = True,
    giant: float = GIANT,
) -> Clustering:
    """Cluster all ranks' rows; every rank calls it, and gets the same centroids.

    `start_KD`, the centroids of the round before, keeps the clusters' numbers. Rows have unit length where `spherical`.
    """
    count = _count_rows(rows, clusters)
    if start_KD is None:
        start_KD = _start(rows, count, clusters, seed, spherical, giant)
    elif start_KD.shape != (clusters, rows.dim):
        raise ValueError(f"expected a start of {clusters} x {rows.dim}, found {tuple(start_KD.shape)}")
    return _Lloyd(rows, spherical, giant, seed).run(start_KD.to(rows.device, torch.float32), iterations)


def _start(rows: Rows, count: int, clusters: int, seed: int, spherical: bool, giant: float) -> Tensor:
    """Begin at rows of a sample that lie far apart, and cluster it first if there are many more rows."""
    size = SAMPLE_PER_CLUSTER * clusters
    sample = draw_sample(rows, size, seed)
    if sample.count < clusters:
        raise ClusteringStopped(
            f"clustering: among {count:,} rows only {sample.count:,} differ, expected {clusters:,} at least, one for "
            f"each cluster. {_COLLAPSED if sample.count == 1 else 'Ask for fewer clusters.'}"
        )
    start_KD = choose_start(sample, clusters, seed)
    if count < 2 * size:
        return start_KD
    return _Lloyd(sample.rows, spherical, giant, seed).run(start_KD, SAMPLE_ITERATIONS).centroids_KD


class _Lloyd:
    """Lloyd's iterations over some rows."""

    def __init__(self, rows: Rows, spherical: bool, giant: float, seed: int) -> None:
        self._rows, self._spherical, self._giant = rows, spherical, giant
        self._generator = torch.Generator().manual_seed(seed)
        self._empty = self._split = 0

    def run(self, centroids_KD: Tensor, iterations: int) -> Clustering:
        """Move the centroids so often, or until they no longer come nearer to their rows."""
        centroids_KD = functional.normalize(centroids_KD) if self._spherical else centroids_KD
        found = sweep(self._rows, centroids_KD)
        _check(found, self._spherical)
        done, is_still = 0, False
        while done < iterations and not is_still:
            # Giants only at first: of two halves each row has the nearer, and that takes iterations without splits.
            centroids_KD, was_repaired = self._move(centroids_KD, found, splits_giants=2 * done < iterations)
            before, found = found, sweep(self._rows, centroids_KD)
            is_still = not was_repaired and before.objective - found.objective <= STILL * before.objective
            done += 1
        return Clustering(
            centroids_KD=centroids_KD,
            labels_N=found.labels_N,
            counts_K=found.counts_K,
            distances_K=found.distances_K,
            objective=found.objective,
            iterations=done,
            repaired_empty=self._empty,
            split_giant=self._split,
        )

    def _move(self, centroids_KD: Tensor, found: Sweep, splits_giants: bool) -> tuple[Tensor, bool]:
        """Put every centroid in the middle of its rows, and say whether any had to be moved elsewhere."""
        means_KD = found.sums_KD / found.counts_K.clamp(min=1)[:, None]
        wide_KD = torch.where(found.counts_K[:, None] > 0, means_KD, centroids_KD.double())
        most_rows = self._giant * found.count / len(centroids_KD) if splits_giants else float("inf")
        repaired = repair(wide_KD, found, most_rows, self._generator)
        self._empty += repaired.empty
        self._split += repaired.giant
        moved_KD = functional.normalize(repaired.centroids_KD) if self._spherical else repaired.centroids_KD
        return moved_KD.float(), repaired.empty + repaired.giant > 0


_COLLAPSED = (
    "The network gives every sample the same features (collapse). Look at the collapse figures of this run's log, try "
    "a lower learning rate or a later first clustering; for sound, see that the clips are not silent."
)


def _count_rows(rows: Rows, clusters: int) -> int:
    count = int(sum_over_ranks(torch.tensor([rows.count], device=rows.device)))
    if count < clusters:
        raise ClusteringStopped(
            f"clustering: found {count:,} rows over all ranks, expected {clusters:,} at least, one for each cluster. "
            "Ask for fewer clusters, keep more rows, or cluster later, when more samples have been seen."
        )
    return count


def _check(found: Sweep, spherical: bool) -> None:
    """Stop before anything is learned from rows that say nothing; all ranks do so together."""
    if found.not_finite:
        raise ClusteringStopped(
            f"clustering: {found.not_finite:,} of {found.count:,} rows hold values that are not finite. The network "
            "diverged: continue from a checkpoint before it did, with a lower learning rate or stricter clipping."
        )
    length = float(found.lengths_K.sum()) / found.count
    if spherical and abs(length - 1) > 0.01:
        raise ValueError(f"spherical clustering takes unit vectors, found a mean squared length of {length:.4g}")
    around_zero = float((found.sums_KD.sum(dim=0) / found.count).square().sum())
    spread = 1 - around_zero / length if length else 0.0
    if spread < LEAST_SPREAD:
        raise ClusteringStopped(
            f"clustering: all {found.count:,} rows are alike; around their mean lies {max(spread, 0.0):.1e} of their "
            f"squared length, expected {LEAST_SPREAD:g} at least. {_COLLAPSED}"
        )


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
