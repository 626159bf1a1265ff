"""The kinds of search that FAISS offers, which of them suits how many vectors and how much memory, and how it is asked.

All end in an exact score: kinds that shorten vectors are asked for some times k, and those are looked at again in the
stored vectors. All take a filter. Figures of memory are bytes of a vector that must be there for a quick answer.
Legend: Q queries, N vectors, D features, k neighbours.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import faiss as typed_faiss
import numpy as np
from numpy.typing import NDArray

from trichord.finetune.retrieval.spec import DType, Kind, Settings
from trichord.finetune.retrieval.vectors import empty_flat

faiss: Any = typed_faiss  # whose stubs lack half of it
LINKS = 32  # of HNSW
_BUILD_CANDIDATES = 80  # efConstruction: of 40, 80 and 200 the middle, in recall as in time
_EXACT_UP_TO = 50_000  # vectors, which one core looks through in a few milliseconds
_LEAST_OF_A_LIST = 39  # vectors to train each of IVF's lists with, below which FAISS warns
_MOST_LISTS = 65_536
_SHORTENED = ("ivf_sq8", "ivf_pq")


def bytes_per_vector(kind: Kind, dim: int, dtype: DType) -> float:
    """Say what a vector takes in memory while it is searched, apart from stored vectors that are looked up."""
    stored = dim * np.dtype(dtype).itemsize
    of_kind = {
        "flat": stored,
        "hnsw": stored + 8 * LINKS + 16,
        "ivf_flat": 4 * dim + 8,
        "ivf_sq8": dim + 8,
        "ivf_pq": _subvectors(dim) / 2 + 8,
    }
    return float(of_kind[kind])


def choose(count: int, dim: int, dtype: DType, memory_bytes: int) -> Kind:
    """Take the kind that is quickest at the same recall among those that fit.

    A graph is none of them: of 250,000 vectors it answers a sixth as many queries, and links them longer than lists are
    learnt; `--kind hnsw` has it.
    """

    def fits(kind: Kind, with_stored: bool = False) -> bool:
        stored = dim * np.dtype(dtype).itemsize if with_stored else 0
        return count * (bytes_per_vector(kind, dim, dtype) + stored) <= memory_bytes

    if count <= _EXACT_UP_TO:
        return "flat"
    # Looked up in memory, stored vectors make up for what product quantisation loses; from a disk that takes long.
    return "ivf_sq8" if not fits("ivf_pq", with_stored=True) and fits("ivf_sq8") else "ivf_pq"


def list_count(count: int, training: int) -> int:
    """Say into how many lists IVF divides so many vectors."""
    return max(1, min(round(4 * math.sqrt(count)), training // _LEAST_OF_A_LIST, _MOST_LISTS))


def make(kind: Kind, dim: int, dtype: DType, lists: int) -> Any:
    """Make an empty index; HNSW's links are among vectors of the stored type."""
    if kind == "hnsw":
        storage = empty_flat(dim, dtype)
        index = faiss.IndexHNSW(storage, LINKS)
        index.hnsw.efConstruction = _BUILD_CANDIDATES
        storage.this.disown()
        index.own_fields = True  # the graph's own from here on, for FAISS keeps but its address
        return index
    codes = {"ivf_flat": "Flat", "ivf_sq8": "SQ8", "ivf_pq": f"PQ{_subvectors(dim)}x4fs"}[kind]
    return faiss.index_factory(dim, f"IVF{lists},{codes}", faiss.METRIC_INNER_PRODUCT)


def write(kind: Kind, index: Any, path: Path) -> None:
    """Write an index, a graph without its vectors, which lie in a file of their own."""
    faiss.write_index(index, str(path), faiss.IO_FLAG_SKIP_STORAGE if kind == "hnsw" else 0)


class Searcher:
    """An index that is asked, and the stored vectors beside it."""

    def __init__(self, kind: Kind, vectors: Any, index: Any = None) -> None:
        self.kind, self._vectors, self._index = kind, vectors, index
        self._refined = faiss.IndexRefine(index, vectors) if kind in _SHORTENED else None

    @classmethod
    def open(cls, kind: Kind, vectors: Any, path: Path) -> Searcher:
        """Map an index that was written; FAISS reads into memory what it cannot map."""
        if kind == "flat":
            return cls(kind, vectors)
        flag = faiss.IO_FLAG_MMAP_IFC if kind == "hnsw" else faiss.IO_FLAG_MMAP
        index = faiss.read_index(str(path), flag | faiss.IO_FLAG_READ_ONLY)
        if kind == "hnsw":
            index.storage, index.own_fields = vectors, False
        return cls(kind, vectors, index)

    @property
    def count(self) -> int:
        """Vectors that are held."""
        return int((self._index if self._index is not None else self._vectors).ntotal)

    @property
    def lists(self) -> int:
        """IVF's lists."""
        return int(self._index.nlist) if self.kind.startswith("ivf") else 0

    def search(
        self, queries_QD: NDArray[np.float32], k: int, settings: Settings, allowed_N: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Give the scores and rows of k neighbours, the nearest first; row -1 where fewer were found."""
        chosen: dict[str, Any] = {}
        if allowed_N is not None:
            packed = np.packbits(allowed_N, bitorder="little")
            chosen["sel"] = faiss.IDSelectorBitmap(packed)
        probes = min(settings.probes, self.lists) if self.lists else 0
        if self._refined is not None:
            base = faiss.SearchParametersIVF(nprobe=probes, **chosen)
            how = faiss.IndexRefineSearchParameters(k_factor=float(settings.factor), base_index_params=base)
            found = self._refined.search(queries_QD, k, params=how)
        elif self.kind == "hnsw":
            candidates = max(settings.candidates, k)
            found = self._index.search(queries_QD, k, params=faiss.SearchParametersHNSW(efSearch=candidates, **chosen))
        elif self.kind == "ivf_flat":
            found = self._index.search(queries_QD, k, params=faiss.SearchParametersIVF(nprobe=probes, **chosen))
        else:
            found = self._vectors.search(queries_QD, k, params=faiss.SearchParameters(**chosen))
        scores_Qk, rows_Qk = found
        return scores_Qk, rows_Qk


def _subvectors(dim: int) -> int:
    """Say into how many pieces product quantisation cuts a vector: of four features, or a few more."""
    return next(pieces for pieces in range(max(1, dim // 4), 0, -1) if dim % pieces == 0)
