"""A segment of an index: rows that were written together and never change, with vectors, search index and texts.

Legend: Q queries, N rows, n some of them, D features, k neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trichord.core.console import counted
from trichord.core.errors import UserError
from trichord.finetune.retrieval.rows import IndexRows, Source
from trichord.finetune.retrieval.spec import INDEX_KINDS, Catalogue, SegmentEntry
from trichord.finetune.retrieval.table import Table, TornTable
from trichord.finetune.retrieval.vectors import exact_neighbours, open_vectors

if TYPE_CHECKING:
    from trichord.finetune.retrieval.kinds import Searcher

VECTORS, ROWS, SEARCH, QUERIES = "vectors.faiss", "rows.safetensors", "search.faiss", "queries.safetensors"
_REMOVED = "row"
# Up to this many rows left by a filter are searched exhaustively, because a filter can lower the recall of the index.
_EXACT_UP_TO = 100_000


class IndexSegment:
    """An open segment."""

    def __init__(self, folder: Path, entry: SegmentEntry, catalogue: Catalogue) -> None:
        self.entry, self._folder = entry, folder / entry.name
        try:
            for name, file in entry.files.items():
                size = (self._folder / name).stat().st_size
                if size != file.bytes:
                    raise UserError(
                        f"{self._folder / name} has {size:,} bytes, expected {file.bytes:,}: it is truncated or was "
                        "changed. Next: build the index again"
                    )
            self._table = Table.open(self._folder / ROWS)
            self.rows = IndexRows(self._table, entry.count)
            index, self.vectors_ND = open_vectors(self._folder / VECTORS, catalogue.dim, catalogue.dtype, entry.count)
            self.searcher: Searcher = INDEX_KINDS[entry.kind].open(index, self._folder / SEARCH)
            self.is_gone_N = self._read_removed(folder)
        except FileNotFoundError as error:
            raise UserError(
                f"{folder} names {error.filename}, which does not exist: the index was changed while it was opened, or "
                "is incomplete. Next: repeat the command, or build the index again"
            ) from error
        if self.searcher.count != entry.count:
            raise UserError(
                f"{self._folder / SEARCH} holds {counted(self.searcher.count, 'vector')}, expected {entry.count:,}. "
                "Next: build the index again"
            )

    def _read_removed(self, folder: Path) -> NDArray[np.bool_] | None:
        if self.entry.removed is None:
            return None
        gone_N = np.zeros(self.entry.count, dtype=bool)
        table = Table.open(folder / self.entry.removed)
        table.check_rows((_REMOVED,), self.entry.gone)
        rows_n = table.numbers(_REMOVED, "i", 1)
        if len(rows_n) and not 0 <= rows_n.min() <= rows_n.max() < len(gone_N):
            raise TornTable(f"{table.path} lists rows {rows_n.min()} to {rows_n.max()} of {len(gone_N)}")
        gone_N[rows_n] = True
        return gone_N

    def search(
        self, queries_QD: NDArray[np.float32], k: int, where: Mapping[str, str]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the scores and rows of k neighbours, the nearest first; row -1 where there are no more."""
        allowed_N = None if self.is_gone_N is None else ~self.is_gone_N
        if where:
            matching_N = self.rows.matching(where)
            allowed_N = matching_N if allowed_N is None else matching_N & allowed_N
        count = self.entry.count if allowed_N is None else int(allowed_N.sum())
        k = min(k, count)
        if allowed_N is not None and count <= _EXACT_UP_TO:
            return exact_neighbours(self.vectors_ND, queries_QD, k, np.flatnonzero(allowed_N))
        scores_Qk, rows_Qk = self.searcher.search(queries_QD, k, self.entry.settings, allowed_N)
        if len(short_q := np.flatnonzero((rows_Qk < 0).any(axis=1))):  # the probed lists held too few rows
            rows_n = None if allowed_N is None else np.flatnonzero(allowed_N)
            found = exact_neighbours(self.vectors_ND, queries_QD[short_q], k, rows_n)
            scores_Qk[short_q], rows_Qk[short_q] = found
        return scores_Qk, rows_Qk

    def alive(self, rows: list[int]) -> list[int]:
        """Return those of the rows that are not removed."""
        return [row for row in rows if self.is_gone_N is None or not self.is_gone_N[row]]

    def source(self) -> Source:
        """Return the rows that are not removed, as a source for another segment."""
        keep_n = np.arange(self.entry.count) if self.is_gone_N is None else np.flatnonzero(~self.is_gone_N)
        return Source(self._table, self.vectors_ND, keep_n)

    def queries(self) -> NDArray[Any]:
        """Return the queries that the segment was tuned and measured with."""
        return np.asarray(Table.open(self._folder / QUERIES).numbers("query", "f", 2), dtype=np.float32)
