"""K-means over rows distributed over ranks: Lloyd's iterations (1957), with the same result on every rank.

Each rank passes over its own rows; one message adds up the clusters' sums and counts; every rank then moves the
centroids by the same arithmetic. Spherical k-means (Dhillon and Modha 2001) only projects them onto the unit sphere.
The first round starts from greedy k-means++ and k-means on a sample. That costs little and reaches an optimum no worse
than k-means++ or random rows alone; where rows lie in blobs, the objective is half as high as from random rows.

Empty clusters are repaired and giant clusters reduced by splitting another cluster in two, in a random direction that
all ranks share. All decisions use figures that are the same on all ranks, so they need no communication.
Legend: N rows of this rank, D features, K clusters.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from trichord.core.errors import RunStopped
from trichord.pretrain.clustering.rows import EmbeddingRows, Sweep, sweep
from trichord.pretrain.clustering.start import choose_start, draw_sample
from trichord.pretrain.collectives import sum_over_ranks

SAMPLE_PER_CLUSTER = 64  # rows of the sample for the start of the first round
SAMPLE_ITERATIONS = 10
GIANT = 20.0  # times the mean size; so splitting giants takes at most a tenth of the clusters
STILL = 1e-6  # relative decrease of the objective at or below which it has converged
# Share of the mean squared length that is variance; below it all rows are equal up to rounding.
LEAST_SPREAD = 1e-6


class ClusteringStopped(RunStopped):
    """Raised when the rows cannot be clustered, so that training on the result would be useless."""


@dataclass(frozen=True)
class Clustering:
    """Centroids, this rank's labels, and figures over all ranks' rows."""

    centroids_KD: Tensor
    labels_N: Tensor
    counts_K: Tensor
    distances_K: Tensor  # sums of distances to the centroid, the input of `concentration`
    objective: float  # the mean squared distance to the nearest centroid
    iterations: int  # number of times the centroids were moved to the mean of their rows
    repaired_empty: int
    split_giant: int


@torch.no_grad()
def cluster(
    rows: EmbeddingRows,
    clusters: int,
    *,
    start_KD: Tensor | None = None,
    iterations: int = 20,
    seed: int = 0,
    spherical: bool = True,
    giant: float = GIANT,
) -> Clustering:
    """Cluster all ranks' rows; every rank calls it and gets the same centroids.

    `start_KD`, the centroids of the previous round, keeps the clusters' numbers. `spherical` requires unit rows.
    """
    count = _count_rows(rows, clusters)
    if start_KD is None:
        start_KD = _start(rows, count, clusters, seed, spherical, giant)
    elif start_KD.shape != (clusters, rows.dim):
        raise ValueError(f"expected start_KD of shape {(clusters, rows.dim)}, found {tuple(start_KD.shape)}")
    return _Lloyd(rows, spherical, giant, seed).run(start_KD.to(rows.device, torch.float32), iterations)


def _start(rows: EmbeddingRows, count: int, clusters: int, seed: int, spherical: bool, giant: float) -> Tensor:
    """Choose distant rows of a sample as centroids; cluster the sample first if there are many more rows."""
    size = SAMPLE_PER_CLUSTER * clusters
    sample = draw_sample(rows, size, seed)
    if sample.count < clusters:
        raise ClusteringStopped(
            f"clustering: found only {sample.count:,} distinct row{'s' if sample.count != 1 else ''} among {count:,}, "
            f"expected at least {clusters:,}, one for each cluster. "
            f"{_COLLAPSED if sample.count == 1 else 'Set fewer clusters.'}"
        )
    start_KD = choose_start(sample, clusters, seed)
    if count < 2 * size:
        return start_KD
    return _Lloyd(sample.rows, spherical, giant, seed).run(start_KD, SAMPLE_ITERATIONS).centroids_KD


class _Lloyd:
    """Lloyd's iterations over the given rows."""

    def __init__(self, rows: EmbeddingRows, spherical: bool, giant: float, seed: int) -> None:
        self._rows, self._spherical, self._giant = rows, spherical, giant
        self._generator = torch.Generator().manual_seed(seed)
        self._empty = self._split = 0

    def run(self, centroids_KD: Tensor, iterations: int) -> Clustering:
        """Iterate up to `iterations` times, or until the objective has converged."""
        centroids_KD = functional.normalize(centroids_KD) if self._spherical else centroids_KD
        found = sweep(self._rows, centroids_KD)
        _check(found, self._spherical)
        done, is_still = 0, False
        while done < iterations and not is_still:
            # Giants only in the first half: after a split, rows need iterations without splits to settle.
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
        """Move every centroid to the mean of its rows; also return whether any cluster was repaired or split."""
        means_KD = found.sums_KD / found.counts_K.clamp(min=1)[:, None]
        wide_KD = torch.where(found.counts_K[:, None] > 0, means_KD, centroids_KD.double())
        most_rows = self._giant * found.count / len(centroids_KD) if splits_giants else float("inf")
        repaired = repair(wide_KD, found, most_rows, self._generator)
        self._empty += repaired.empty
        self._split += repaired.giant
        moved_KD = functional.normalize(repaired.centroids_KD) if self._spherical else repaired.centroids_KD
        return moved_KD.float(), repaired.empty + repaired.giant > 0


_COLLAPSED = (
    "The network returns the same features for every sample (collapse). Check the collapse figures in this run's log. "
    "Try a lower learning rate or a later first clustering. For audio, check that the clips are not silent."
)


def _count_rows(rows: EmbeddingRows, clusters: int) -> int:
    count = int(sum_over_ranks(torch.tensor([rows.count], device=rows.device)))
    if count < clusters:
        raise ClusteringStopped(
            f"clustering: found {count:,} row{'s' if count != 1 else ''} over all ranks, expected at least "
            f"{clusters:,}, one for each cluster. Set fewer clusters, keep more rows, or cluster later, when more "
            "samples have been seen."
        )
    return count


def _check(found: Sweep, spherical: bool) -> None:
    """Raise ClusteringStopped, on all ranks together, if the rows are not finite or carry no information."""
    if found.not_finite:
        raise ClusteringStopped(
            f"clustering: {found.not_finite:,} of {found.count:,} rows hold values that are not finite. Training "
            "diverged. Continue from an earlier checkpoint with a lower learning rate or stricter gradient clipping."
        )
    length = float(found.lengths_K.sum()) / found.count
    if spherical and abs(length - 1) > 0.01:
        raise ValueError(f"spherical clustering expects unit vectors, found a mean squared length of {length:.4g}")
    around_zero = float((found.sums_KD.sum(dim=0) / found.count).square().sum())
    spread = 1 - around_zero / length if length else 0.0
    if spread < LEAST_SPREAD:
        raise ClusteringStopped(
            f"clustering: all {found.count:,} rows are nearly equal. Their variance is {max(spread, 0.0):.1e} of their "
            f"mean squared length, expected at least {LEAST_SPREAD:g}. {_COLLAPSED}"
        )


# Distance of a cluster's two halves from its old centroid, in units of its radius: large enough for every row to be
# nearer to one of them, too small to reach neighbouring clusters.
_SPLIT = 0.05
# Rows within this squared distance of their centroid, relative to their squared length, are equal in float32.
_LEAST_SPREAD = 1e-9


@dataclass(frozen=True)
class Repaired:
    """Centroids after repair, and how many of them were moved."""

    centroids_KD: Tensor
    empty: int  # clusters without rows that took half of the cluster with the greatest sum of squared distances
    giant: int  # clusters with the fewest rows that took half of a giant


def repair(centroids_KD: Tensor, found: Sweep, most_rows: float, generator: torch.Generator) -> Repaired:
    """Split the widest clusters to fill empty ones, and clusters above `most_rows` to enlarge the smallest."""
    splitting = _Splitting(centroids_KD.clone(), found, generator)
    counts = splitting.counts
    by_size = sorted(range(len(counts)), key=lambda number: counts[number])
    empty = [number for number in by_size if counts[number] == 0]
    filled = splitting.split(splitting.squares, empty, above=0.0)
    halved = splitting.split(counts, by_size[len(empty) :], above=most_rows)
    return Repaired(splitting.centroids_KD, filled, halved)


class _Splitting:
    """Centroids during repair, with the clusters' figures as expected after each split."""

    def __init__(self, centroids_KD: Tensor, found: Sweep, generator: torch.Generator) -> None:
        self.centroids_KD, self._generator = centroids_KD, generator
        self.counts: list[float] = found.counts_K.tolist()
        self.squares: list[float] = found.squares_K.tolist()
        self._lengths: list[float] = found.lengths_K.tolist()

    def split(self, weights: Sequence[float], takers: Sequence[int], above: float) -> int:
        """Halve the heaviest cluster while its weight is greater than `above` and a taker remains; return the count."""
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
