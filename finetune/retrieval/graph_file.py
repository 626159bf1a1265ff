"""Check of a file of HNSW of any origin, as FAISS reads mapped files beyond their end, and links that are not there.

Vector n has links on `levels_N[n]` levels. Those on level 0 come first, from `offsets_M[n]` on, and of all vectors the
links on level l begin `starts_L[l]` later. FAISS itself checks that each link leads to a vector.
Legend: N vectors, M = N + 1, L levels, X links of all vectors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trichord.core.errors import UserError

_BEFORE, _AFTER = 37, 24  # bytes before the tables and after
_TABLES = ("<f8", "<i4", "<i4", "<u8", "<i4")  # probabilities, starts_L, levels_N, offsets_M, links_X


def check_graph(path: Path) -> None:
    """Raise UserError unless every link that a search may follow is within the file."""
    tables, end, size = [], _BEFORE, path.stat().st_size
    with path.open("rb") as file:
        for kind in _TABLES:
            file.seek(end)
            count, width = int.from_bytes(file.read(8), "little"), np.dtype(kind).itemsize
            end += 8 + count * width
            if end + _AFTER > size:
                raise _damaged(path, "it ends within a table")
            held = np.memmap(path, kind, "r", end - count * width, (count,)) if count else np.empty(0, kind)
            tables.append(held)
        file.seek(end)
        first, top = (int.from_bytes(file.read(4), "little", signed=True) for _ in range(2))
    if end + _AFTER != size:
        raise _damaged(path, "it is longer than its tables")
    _, starts_L, levels_N, offsets_M, links_X = tables
    if not _has_places(starts_L, levels_N, offsets_M, len(links_X)):
        raise _damaged(path, "its links have no places")
    if not 0 <= first < len(levels_N) or int(levels_N[first]) != top + 1:
        raise _damaged(path, "it begins at no vector of the top level")
    for level in range(1, top + 1):
        if not _leads_within(level, starts_L, levels_N, offsets_M, links_X):
            raise _damaged(path, f"a link on level {level} leads to a vector without that level")


def _has_places(starts_L: NDArray[Any], levels_N: NDArray[Any], offsets_M: NDArray[Any], links: int) -> bool:
    """Return whether each vector has as many places for links as its levels take, one after another."""
    if len(offsets_M) != len(levels_N) + 1 or not len(levels_N) or not len(starts_L) or starts_L[0] != 0:
        return False
    is_known = 0 < levels_N.min() <= levels_N.max() < len(starts_L) and bool((np.diff(starts_L) >= 0).all())
    ends_N = np.cumsum(starts_L[levels_N], dtype=np.uint64) if is_known else None
    return ends_N is not None and offsets_M[0] == 0 and ends_N[-1] == links and np.array_equal(offsets_M[1:], ends_N)


def _leads_within(
    level: int, starts_L: NDArray[Any], levels_N: NDArray[Any], offsets_M: NDArray[Any], links_X: NDArray[Any]
) -> bool:
    own_n = np.flatnonzero(levels_N > level)
    places_n1 = (offsets_M[own_n].astype(np.int64) + int(starts_L[level]))[:, None]
    links = links_X[places_n1 + np.arange(int(starts_L[level + 1]) - int(starts_L[level]))]
    links = links[links >= 0]
    return bool((links < len(levels_N)).all() and (levels_N[links] > level).all())


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is damaged ({reason}). Next: build the index again")
