"""Rows for the tests of clustering, easy and hard ones, and a naive k-means."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trichord.pretrain.clustering import lloyd
from trichord.pretrain.clustering.rows import EmbeddingRows, Sweep, sweep

ROUNDING = 1e-6  # more than float32 scores differ between processors or numbers of rows in a product
Found = TypeVar("Found")


def blobs(count: int, dim: int, centres: int, noise: float, skew: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return unit rows around random centres, and the centre of each; with skew, sizes follow Zipf's law."""
    generator = torch.Generator().manual_seed(seed)
    centres_CD = functional.normalize(torch.randn(centres, dim, generator=generator))
    weights_C = 1 / torch.arange(1.0, centres + 1) ** skew
    truths_N = torch.multinomial(weights_C, count, replacement=True, generator=generator)
    away_ND = torch.randn(count, dim, generator=generator) * noise / dim**0.5
    return functional.normalize(centres_CD[truths_N] + away_ND), truths_N


def naive_kmeans(rows_ND: Tensor, start_KD: Tensor, iterations: int, spherical: bool) -> tuple[Tensor, Tensor]:
    """Return centroids_KD and labels_N after a number of updates of the centroids."""
    rows, centroids = rows_ND.double(), start_KD.double()
    centroids = functional.normalize(centroids) if spherical else centroids
    for _ in range(iterations):
        labels = torch.stack([((row - centroids) ** 2).sum(dim=1).argmin() for row in rows])
        centroids = torch.stack([rows[labels == number].mean(dim=0) for number in range(len(centroids))])
        centroids = functional.normalize(centroids) if spherical else centroids
    return centroids, torch.stack([((row - centroids) ** 2).sum(dim=1).argmin() for row in rows])


def where_rounding_decides_nothing(work: Callable[[int], Found]) -> tuple[int, Found]:
    """Return the first seed for which no row is nearly equidistant to two centroids, and the result for it."""
    for seed in range(40):
        gaps: list[float] = []

        def watched(rows: EmbeddingRows, centroids_KD: Tensor, gaps: list[float] = gaps) -> Sweep:
            gaps.extend(_gap(rows_nD, centroids_KD) for rows_nD in rows.chunks())
            return sweep(rows, centroids_KD)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lloyd, "sweep", watched)
            found = work(seed)
        if min(gaps, default=1.0) > ROUNDING:
            return seed, found
    raise AssertionError(f"with every seed some row's two best scores are less than {ROUNDING} apart")


def _gap(rows_nD: Tensor, centroids_KD: Tensor) -> float:
    """Return the smallest margin of any row's best score over its second best; equal centroids count as one."""
    wide_KD = centroids_KD.double().unique(dim=0)
    scores_nK = rows_nD.double() @ wide_KD.T - wide_KD.square().sum(dim=1) / 2
    best_n, next_n = scores_nK.topk(2, dim=1).values.unbind(1)
    return float((best_n - next_n).min())
