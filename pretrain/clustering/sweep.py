"""One pass over all ranks' rows: each row's nearest centroid, and the sums over every cluster's rows.

The nearest centroid c of a row x maximises x.c - |c|^2 / 2, because |x - c|^2 = |x|^2 - 2 x.c + |c|^2.
For unit vectors that is also the greatest cosine, so spherical k-means needs no other pass.
Sums are computed in float64. For float16 rows of at most unit length they are exact, so they do not depend on the
number of ranks; for float32 rows they depend on it in the sixteenth digit.
Legend: N rows of this rank, n of a tile, D features, K clusters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from trichord.pretrain.clustering.rows import Rows
from trichord.pretrain.collectives import of_first_rank, sum_over_ranks

TILE_VALUES = 2**22  # scores held at a time
_FIGURES = 4  # besides the sums: rows, squared lengths, distances, rows that are not finite


@dataclass(frozen=True)
class Sweep:
    """The result of one pass: this rank's labels, and figures over all ranks' rows, the same on every rank."""

    labels_N: Tensor
    sums_KD: Tensor
    counts_K: Tensor
    lengths_K: Tensor  # sums of squared lengths
    squares_K: Tensor  # sums of squared distances to the centroid
    distances_K: Tensor  # sums of distances to the centroid
    not_finite: int

    @property
    def count(self) -> int:
        return int(self.counts_K.sum())

    @property
    def objective(self) -> float:
        """The mean squared distance to the nearest centroid."""
        return float(self.squares_K.sum()) / self.count


@torch.no_grad()
def sweep(rows: Rows, centroids_KD: Tensor) -> Sweep:
    """Find every row's nearest centroid and sum the clusters' figures over ranks, in one message."""
    dim = rows.dim
    totals_KF = torch.zeros(len(centroids_KD), dim + _FIGURES, dtype=torch.float64, device=rows.device)
    labels = [torch.empty(0, dtype=torch.long, device=rows.device)]
    step = _rows_in_a_tile(centroids_KD)
    wide_nF = torch.empty(min(step, rows.count), dim + _FIGURES, dtype=torch.float64, device=rows.device)
    wide_nF[:, dim] = 1
    for rows_nD, labels_n, scores_n in _nearest(rows, centroids_KD):
        here_nF = wide_nF[: len(rows_nD)]
        lengths_n = torch.linalg.vector_norm(rows_nD, dim=1).double().square()
        here_nF[:, :dim] = rows_nD
        here_nF[:, dim + 1] = lengths_n
        here_nF[:, dim + 2] = (lengths_n - 2 * scores_n).clamp(min=0).sqrt()
        here_nF[:, dim + 3] = ~lengths_n.isfinite()
        totals_KF.index_add_(0, labels_n, here_nF)
        labels.append(labels_n)
    sum_over_ranks(totals_KF)
    sums_KD, (counts_K, lengths_K, distances_K, not_finite_K) = totals_KF[:, :dim], totals_KF[:, dim:].unbind(1)
    wide_KD = centroids_KD.double()
    # From the float64 sums rather than from the rows' scores in float32, for precision.
    squares_K = lengths_K - 2 * (wide_KD * sums_KD).sum(dim=1) + counts_K * wide_KD.square().sum(dim=1)
    return Sweep(
        labels_N=torch.cat(labels),
        sums_KD=sums_KD,
        counts_K=counts_K.long(),
        lengths_K=lengths_K,
        # Ranks decide by these when to stop and which cluster to split; a differing decision would deadlock the others.
        squares_K=of_first_rank(squares_K.clamp(min=0)),
        distances_K=distances_K,
        not_finite=int(not_finite_K.sum()),
    )


@torch.no_grad()
def assign(rows: Rows, centroids_KD: Tensor) -> Tensor:
    """Return the index of each row's nearest centroid, for this rank's rows, without communication."""
    labels = [labels_n for _, labels_n, _ in _nearest(rows, centroids_KD)]
    return torch.cat(labels) if labels else torch.empty(0, dtype=torch.long, device=rows.device)


def _nearest(rows: Rows, centroids_KD: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield rows, labels and scores, tile by tile."""
    centroids_KD = centroids_KD.to(rows.device, torch.float32)
    offset_K = centroids_KD.double().square().sum(dim=1).mul_(-0.5).float()
    step = _rows_in_a_tile(centroids_KD)
    scores_nK = torch.empty(min(step, rows.count), len(centroids_KD), device=rows.device)
    for chunk_nD in rows.chunks():
        for rows_nD in chunk_nD.split(step):
            # The buffer is reused: newly allocated pages would cost a fifth of the time.
            here_nK = torch.addmm(offset_K, rows_nD, centroids_KD.T, out=scores_nK[: len(rows_nD)])
            labels_n = here_nK.argmax(dim=1)
            yield rows_nD, labels_n, here_nK.gather(1, labels_n[:, None])[:, 0]


def _rows_in_a_tile(centroids_KD: Tensor) -> int:
    return max(1, TILE_VALUES // max(centroids_KD.shape))
