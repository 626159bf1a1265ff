"""The exact neighbours of queries among vectors on the disk, block by block: what recall is measured against.

Legend: Q queries, N vectors, D features, k neighbours.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]
Ints = NDArray[np.int64]
_BLOCK_BYTES = 64 << 20


def exact_neighbours(
    vectors_ND: NDArray[Any], queries_QD: Scores, k: int, rows_n: Ints | None = None
) -> tuple[Scores, Ints]:
    """Give scores and rows of the k nearest, of all vectors or of some rows; row -1 where there are fewer than k."""
    count = len(vectors_ND) if rows_n is None else len(rows_n)
    at_once = max(1, _BLOCK_BYTES // (4 * vectors_ND.shape[1]))
    best_Qk = np.full((len(queries_QD), k), -np.inf, np.float32)
    rows_Qk = np.full((len(queries_QD), k), -1, np.int64)
    for first in range(0, count, at_once):
        own = slice(first, min(first + at_once, count))
        block = vectors_ND[own] if rows_n is None else vectors_ND[rows_n[own]]
        block_bD = np.ascontiguousarray(block, dtype=np.float32)
        scores_Qb, places_Qb = faiss.knn(queries_QD, block_bD, min(k, len(block_bD)), faiss.METRIC_INNER_PRODUCT)
        found_Qb = places_Qb + first if rows_n is None else rows_n[places_Qb + first]
        scores = np.concatenate([best_Qk, scores_Qb], axis=1)
        rows = np.concatenate([rows_Qk, found_Qb], axis=1)
        order_Qk = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        best_Qk, rows_Qk = np.take_along_axis(scores, order_Qk, 1), np.take_along_axis(rows, order_Qk, 1)
    return best_Qk, rows_Qk
