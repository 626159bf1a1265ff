"""The kinds of FAISS search, their choice by the number of vectors and the memory, and their use.

All return exact scores: kinds that compress vectors return a multiple of k candidates, which are rescored with the
stored vectors. All take a filter. Memory is counted in bytes per vector that must be resident for fast search.
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

faiss: Any = typed_faiss  # its type stubs are incomplete
LINKS = 32  # of HNSW
_BUILD_CANDIDATES = 80  # efConstruction: a compromise between recall and time among 40, 80 and 200
_EXACT_UP_TO = 50_000  # vectors, which one core scans in a few milliseconds
_LEAST_OF_A_LIST = 39  # training vectors for each of IVF's lists; FAISS warns below this number
_MOST_LISTS = 65_536
_COMPRESSED = ("ivf_sq8", "ivf_pq")


def bytes_per_vector(kind: Kind, dim: int, dtype: DType) -> float:
    """Return the bytes of memory per vector during search, without stored vectors used for rescoring."""
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
    """Return the fastest kind at equal recall among those that fit into memory.

    A graph is never chosen: with 250,000 vectors it answers a sixth as many queries, and building its links takes
    longer than training lists; `--kind hnsw` selects it.
    """

    def fits(kind: Kind, with_stored: bool = False) -> bool:
        stored = dim * np.dtype(dtype).itemsize if with_stored else 0
        return count * (bytes_per_vector(kind, dim, dtype) + stored) <= memory_bytes

    if count <= _EXACT_UP_TO:
        return "flat"
    # Rescoring with stored vectors offsets the loss of product quantisation; it is slow if they are read from disk.
    return "ivf_sq8" if not fits("ivf_pq", with_stored=True) and fits("ivf_sq8") else "ivf_pq"


def list_count(count: int, training: int) -> int:
    """Return the number of IVF lists for a number of vectors."""
    return max(1, min(round(4 * math.sqrt(count)), training // _LEAST_OF_A_LIST, _MOST_LISTS))


def make(kind: Kind, dim: int, dtype: DType, lists: int) -> Any:
    """Create an empty index; HNSW links vectors in the stored data type."""
    if kind == "hnsw":
        storage = empty_flat(dim, dtype)
        index = faiss.IndexHNSW(storage, LINKS)
        index.hnsw.efConstruction = _BUILD_CANDIDATES
        storage.this.disown()
        index.own_fields = True  # the graph owns the storage from here on, because FAISS keeps only its address
        return index
    codes = {"ivf_flat": "Flat", "ivf_sq8": "SQ8", "ivf_pq": f"PQ{_subvectors(dim)}x4fs"}[kind]
    return faiss.index_factory(dim, f"IVF{lists},{codes}", faiss.METRIC_INNER_PRODUCT)


def write(kind: Kind, index: Any, path: Path) -> None:
    """Write an index; a graph is written without its vectors, which are in a separate file."""
    faiss.write_index(index, str(path), faiss.IO_FLAG_SKIP_STORAGE if kind == "hnsw" else 0)


class Searcher:
    """An index to search, with the stored vectors."""

    def __init__(self, kind: Kind, vectors: Any, index: Any = None) -> None:
        self.kind, self._vectors, self._index = kind, vectors, index
        self._refined = faiss.IndexRefine(index, vectors) if kind in _COMPRESSED else None

    @classmethod
    def open(cls, kind: Kind, vectors: Any, path: Path) -> Searcher:
        """Open an index by memory mapping; FAISS reads into memory what it cannot map."""
        if kind == "flat":
            return cls(kind, vectors)
        flag = faiss.IO_FLAG_MMAP_IFC if kind == "hnsw" else faiss.IO_FLAG_MMAP
        index = faiss.read_index(str(path), flag | faiss.IO_FLAG_READ_ONLY)
        if kind == "hnsw":
            index.storage, index.own_fields = vectors, False
        return cls(kind, vectors, index)

    @property
    def count(self) -> int:
        """Number of vectors in the index."""
        return int((self._index if self._index is not None else self._vectors).ntotal)

    @property
    def lists(self) -> int:
        """Number of IVF lists; 0 for other kinds."""
        return int(self._index.nlist) if self.kind.startswith("ivf") else 0

    def search(
        self, queries_QD: NDArray[np.float32], k: int, settings: Settings, allowed_N: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the scores and rows of k neighbours, the nearest first; row -1 where fewer were found."""
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
    """Return the number of pieces per vector for product quantisation: of four features each, or a few more."""
    return next(pieces for pieces in range(max(1, dim // 4), 0, -1) if dim % pieces == 0)
