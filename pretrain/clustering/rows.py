"""The rows to cluster, this rank's part of all ranks' embeddings, and one pass over them: nearest centroids and sums.

Rows are in memory or in a file, and are read in chunks. The nearest centroid c of a row x maximises x.c - |c|^2 / 2,
because |x - c|^2 = |x|^2 - 2 x.c + |c|^2. For unit vectors that is also the greatest cosine, so spherical k-means needs
no other pass. Sums are computed in float64. For float16 rows of at most unit length they are exact, so they do not
depend on the number of ranks; for float32 rows they depend on it in the sixteenth digit.
Legend: N rows of this rank, n of a chunk or tile, D features, K clusters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from trichord.core.errors import UserError
from trichord.pretrain.collectives import of_first_rank, sum_over_ranks

CHUNK_VALUES = 2**23  # values in a chunk: 32 MiB of float32


class EmbeddingRows(Protocol):
    """This rank's rows. Every call of `chunks` yields them in the same order; a rank may have none."""

    count: int
    dim: int
    device: torch.device

    def chunks(self) -> Iterator[Tensor]:
        """Yield rows_nD in float32. A chunk is valid until the next one is requested."""
        ...


class TensorRows:
    """Rows in memory, of any precision; with `chosen_N`, the rows at these indices, in this order."""

    def __init__(self, rows_ND: Tensor, chosen_N: Tensor | None = None) -> None:
        self._rows_ND, self._chosen_N = rows_ND, chosen_N
        self.count, self.dim = len(rows_ND if chosen_N is None else chosen_N), rows_ND.shape[1]
        self.device = rows_ND.device

    def chunks(self) -> Iterator[Tensor]:
        step = _rows_in_a_chunk(self.dim)
        for first in range(0, self.count, step):
            part = slice(first, first + step)
            yield self._rows_ND[part if self._chosen_N is None else self._chosen_N[part]].float()


class FileRows:
    """Rows stored one after another in a raw file, float16 or float32 in the byte order of this machine.

    They are read rather than mapped: mapped pages count as the process's memory until the system reclaims them.
    """

    def __init__(
        self, path: Path, dim: int, dtype: torch.dtype = torch.float16, device: torch.device | str = "cpu"
    ) -> None:
        self._path, self._dtype = path, dtype
        self.dim, self.device = dim, torch.device(device)
        self.count, rest = divmod(path.stat().st_size, dim * dtype.itemsize)
        if rest:
            raise UserError(
                f"{path}: found {path.stat().st_size} bytes, expected a multiple of {dim * dtype.itemsize}, the size "
                f"of {dim} values of {dtype}. Set the dim and dtype the file was written with, or write it again."
            )

    def chunks(self) -> Iterator[Tensor]:
        step = min(_rows_in_a_chunk(self.dim), max(self.count, 1))
        stored_nD = torch.empty(step, self.dim, dtype=self._dtype)
        rows_nD = torch.empty(step, self.dim, device=self.device)
        with self._path.open("rb", buffering=0) as file:
            for first in range(0, self.count, step):
                here = min(step, self.count - first)
                self._fill(file, stored_nD[:here])
                yield rows_nD[:here].copy_(stored_nD[:here])

    def _fill(self, file: RawFile, stored_nD: Tensor) -> None:
        missing = memoryview(stored_nD.view(torch.uint8).numpy().data).cast("B")
        while missing:
            read = file.readinto(missing)
            if not read:
                raise UserError(f"{self._path} was truncated while it was read: {len(missing)} bytes are missing.")
            missing = missing[read:]


class RawFile(Protocol):
    """An unbuffered binary file."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...


def _rows_in_a_chunk(dim: int) -> int:
    return max(1, CHUNK_VALUES // dim)


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
def sweep(rows: EmbeddingRows, centroids_KD: Tensor) -> Sweep:
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


def _nearest(rows: EmbeddingRows, centroids_KD: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
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
