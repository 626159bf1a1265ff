"""Rows for the tests of clustering, easy ones and hard ones, and k-means as one would write it first."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def blobs(count: int, dim: int, centres: int, noise: float, skew: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Give unit rows around random centres, and the centre of each; with skew, of unequal sizes as Zipf's."""
    generator = torch.Generator().manual_seed(seed)
    centres_CD = functional.normalize(torch.randn(centres, dim, generator=generator))
    weights_C = 1 / torch.arange(1.0, centres + 1) ** skew
    truths_N = torch.multinomial(weights_C, count, replacement=True, generator=generator)
    away_ND = torch.randn(count, dim, generator=generator) * noise / dim**0.5
    return functional.normalize(centres_CD[truths_N] + away_ND), truths_N


def naive_kmeans(rows_ND: Tensor, start_KD: Tensor, iterations: int, spherical: bool) -> tuple[Tensor, Tensor]:
    """Give centroids_KD and labels_N after so many moves of the centroids."""
    rows, centroids = rows_ND.double(), start_KD.double()
    centroids = functional.normalize(centroids) if spherical else centroids
    for _ in range(iterations):
        labels = torch.stack([((row - centroids) ** 2).sum(dim=1).argmin() for row in rows])
        centroids = torch.stack([rows[labels == number].mean(dim=0) for number in range(len(centroids))])
        centroids = functional.normalize(centroids) if spherical else centroids
    return centroids, torch.stack([((row - centroids) ** 2).sum(dim=1).argmin() for row in rows])
