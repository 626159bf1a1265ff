"""The kinds of FAISS search: a class for each, and the choice among them by the number of vectors and the memory.

All return exact scores: kinds that compress vectors return a multiple of k candidates, which are rescored with the
stored vectors. All take a filter. Memory is counted in bytes per vector that must be resident for fast search.
Legend: Q queries, N vectors, D features, k neighbours.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

import faiss as typed_faiss
import numpy as np
from numpy.typing import NDArray

from trichord.core.errors import UserError
from trichord.finetune.retrieval.graph_file import check_graph
from trichord.finetune.retrieval.spec import INDEX_KINDS, DType, SearchSettings
from trichord.finetune.retrieval.vectors import empty_flat, read_faiss

faiss: Any = typed_faiss  # its type stubs are incomplete
LINKS = 32  # of HNSW
FACTORS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # multiples of k that are rescored
_BUILD_CANDIDATES = 80  # efConstruction: a compromise between recall and time among 40, 80 and 200
_MOST_CANDIDATES = 4096
_EXACT_UP_TO = 50_000  # vectors, which one core scans in a few milliseconds
_LEAST_OF_A_LIST = 39  # training vectors for each of IVF's lists; FAISS warns below this number
_MOST_LISTS = 65_536

Vectors = NDArray[np.float32]
Found = tuple[NDArray[np.float32], NDArray[np.int64]]


class Searcher(ABC):
    """An index of one kind to search, with the stored vectors; `index` is what FAISS built, if the kind needs it."""

    is_exact: ClassVar[bool] = False  # it reads only the stored vectors: there is nothing to build or to tune
    is_trained: ClassVar[bool] = True  # its lists and codes are trained before vectors are added
    write_flags: ClassVar[int] = 0
    read_flags: ClassVar[int] = faiss.IO_FLAG_MMAP

    def __init__(self, vectors: Any, index: Any = None) -> None:
        self._vectors, self._index = vectors, index

    @classmethod
    @abstractmethod
    def bytes_per_vector(cls, dim: int, dtype: DType) -> float:
        """Return the bytes of memory per vector during search, without stored vectors used for rescoring."""

    @classmethod
    @abstractmethod
    def create(cls, dim: int, dtype: DType, lists: int) -> Any:
        """Create an empty FAISS index."""

    @classmethod
    def write(cls, index: Any, path: Path) -> None:
        """Write a FAISS index."""
        faiss.write_index(index, str(path), cls.write_flags)

    @classmethod
    def open(cls, vectors: Any, path: Path) -> Self:
        """Open an index by memory mapping; FAISS reads into memory what it cannot map."""
        index = read_faiss(path, cls.read_flags | faiss.IO_FLAG_READ_ONLY)
        made = cls.create(index.d, "float32", 1)
        if type(index) is not type(made) or index.metric_type != made.metric_type or index.d != vectors.d:
            raise UserError(
                f"{path} is an {type(index).__name__} of {index.d} features, expected an {type(made).__name__} of "
                f"{vectors.d}. Next: build the index again"
            )
        return cls(vectors, index)

    @property
    def count(self) -> int:
        """Number of vectors in the index."""
        return int(self._index.ntotal)

    def search(
        self,
        queries_QD: Vectors,
        k: int,
        settings: SearchSettings,
        allowed_N: NDArray[np.bool_] | None = None,
    ) -> Found:
        """Return the scores and rows of k neighbours, the nearest first; row -1 where fewer were found."""
        chosen: dict[str, Any] = {}
        if allowed_N is not None:
            packed = np.packbits(allowed_N, bitorder="little")
            chosen["sel"] = faiss.IDSelectorBitmap(packed)
        try:
            scores_Qk, rows_Qk = self._search(queries_QD, k, settings, chosen)
        except RuntimeError as error:  # FAISS, about rows or lists that the index does not have
            raise UserError(_damaged(str(error).rpartition("Error: ")[2])) from error
        if not -1 <= rows_Qk.min(initial=-1) <= rows_Qk.max(initial=-1) < self.count:
            raise UserError(_damaged("it names rows that are not there"))
        return scores_Qk, rows_Qk

    @abstractmethod
    def _search(self, queries_QD: Vectors, k: int, settings: SearchSettings, chosen: dict[str, Any]) -> Found:
        """Search with FAISS's parameters of this kind; `chosen` holds the filter, if any."""

    @abstractmethod
    def schedules(self) -> Iterator[Iterator[SearchSettings]]:
        """Yield sequences of settings from least to most work, one for each number of candidates to rescore."""


class Flat(Searcher):
    """Exact search of all stored vectors."""

    is_exact = True
    is_trained = False

    @classmethod
    def bytes_per_vector(cls, dim: int, dtype: DType) -> float:
        return float(dim * np.dtype(dtype).itemsize)

    @classmethod
    def create(cls, dim: int, dtype: DType, lists: int) -> Any:
        return empty_flat(dim, dtype)

    @classmethod
    def open(cls, vectors: Any, path: Path) -> Self:
        return cls(vectors)

    @property
    def count(self) -> int:
        return int(self._vectors.ntotal)

    def _search(self, queries_QD: Vectors, k: int, settings: SearchSettings, chosen: dict[str, Any]) -> Found:
        scores_Qk, rows_Qk = self._vectors.search(queries_QD, k, params=faiss.SearchParameters(**chosen))
        return scores_Qk, rows_Qk

    def schedules(self) -> Iterator[Iterator[SearchSettings]]:
        yield iter((SearchSettings(),))


class Graph(Searcher):
    """HNSW: a graph of links between neighbours, written without the vectors, which are in a separate file."""

    is_trained = False
    write_flags = faiss.IO_FLAG_SKIP_STORAGE
    read_flags = faiss.IO_FLAG_MMAP_IFC

    @classmethod
    def bytes_per_vector(cls, dim: int, dtype: DType) -> float:
        return float(dim * np.dtype(dtype).itemsize + 8 * LINKS + 16)

    @classmethod
    def create(cls, dim: int, dtype: DType, lists: int) -> Any:
        storage = empty_flat(dim, dtype)  # vectors are linked in the stored data type
        index = faiss.IndexHNSW(storage, LINKS)
        index.hnsw.efConstruction = _BUILD_CANDIDATES
        storage.this.disown()
        index.own_fields = True  # the graph owns the storage from here on, because FAISS keeps only its address
        return index

    @classmethod
    def open(cls, vectors: Any, path: Path) -> Self:
        check_graph(path)
        found = super().open(vectors, path)
        found._index.storage, found._index.own_fields = vectors, False
        return found

    def _search(self, queries_QD: Vectors, k: int, settings: SearchSettings, chosen: dict[str, Any]) -> Found:
        parameters = faiss.SearchParametersHNSW(efSearch=max(settings.candidates, k), **chosen)
        scores_Qk, rows_Qk = self._index.search(queries_QD, k, params=parameters)
        return scores_Qk, rows_Qk

    def schedules(self) -> Iterator[Iterator[SearchSettings]]:
        yield (SearchSettings(candidates=step) for step in _steps(16, _MOST_CANDIDATES))


class InvertedLists(Searcher):
    """IVF: vectors in lists around centroids, of which the nearest ones are searched."""

    @classmethod
    def bytes_per_vector(cls, dim: int, dtype: DType) -> float:
        return 4.0 * dim + 8

    @classmethod
    def codes(cls, dim: int) -> str:
        """Return how vectors are stored in the lists, in the words of FAISS's factory."""
        return "Flat"

    @classmethod
    def create(cls, dim: int, dtype: DType, lists: int) -> Any:
        return faiss.index_factory(dim, f"IVF{lists},{cls.codes(dim)}", faiss.METRIC_INNER_PRODUCT)

    def _parameters(self, settings: SearchSettings, chosen: dict[str, Any]) -> Any:
        return faiss.SearchParametersIVF(nprobe=min(settings.probes, int(self._index.nlist)), **chosen)

    def _search(self, queries_QD: Vectors, k: int, settings: SearchSettings, chosen: dict[str, Any]) -> Found:
        scores_Qk, rows_Qk = self._index.search(queries_QD, k, params=self._parameters(settings, chosen))
        return scores_Qk, rows_Qk

    def schedules(self) -> Iterator[Iterator[SearchSettings]]:
        yield self._with_factor(1.0)

    def _with_factor(self, factor: float) -> Iterator[SearchSettings]:
        return (SearchSettings(probes=probes, factor=factor) for probes in _steps(1, int(self._index.nlist)))


class CompressedLists(InvertedLists):
    """IVF whose lists hold vectors of one byte per feature; candidates are rescored with the stored vectors."""

    def __init__(self, vectors: Any, index: Any = None) -> None:
        super().__init__(vectors, index)
        self._refined = faiss.IndexRefine(index, vectors)

    @classmethod
    def bytes_per_vector(cls, dim: int, dtype: DType) -> float:
        return float(dim + 8)

    @classmethod
    def codes(cls, dim: int) -> str:
        return "SQ8"

    def _search(self, queries_QD: Vectors, k: int, settings: SearchSettings, chosen: dict[str, Any]) -> Found:
        base = self._parameters(settings, chosen)
        parameters = faiss.IndexRefineSearchParameters(k_factor=float(settings.factor), base_index_params=base)
        scores_Qk, rows_Qk = self._refined.search(queries_QD, k, params=parameters)
        return scores_Qk, rows_Qk

    def schedules(self) -> Iterator[Iterator[SearchSettings]]:
        return map(self._with_factor, FACTORS)


class QuantisedLists(CompressedLists):
    """IVF with product quantisation: half a byte for each piece of a vector."""

    @classmethod
    def bytes_per_vector(cls, dim: int, dtype: DType) -> float:
        return _subvectors(dim) / 2 + 8

    @classmethod
    def codes(cls, dim: int) -> str:
        return f"PQ{_subvectors(dim)}x4fs"


def _damaged(reason: str) -> str:
    return f"the search index is damaged ({reason[:200]}). Next: trichord index check, which names the file"


def choose(count: int, dim: int, dtype: DType, memory_bytes: int) -> str:
    """Return the fastest kind at equal recall among those that fit into memory.

    A graph is never chosen: with 250,000 vectors it answers a sixth as many queries, and building its links takes
    longer than training lists; `--kind hnsw` selects it.
    """

    def fits(kind: str, with_stored: bool = False) -> bool:
        stored = dim * np.dtype(dtype).itemsize if with_stored else 0
        return bool(count * (INDEX_KINDS[kind].bytes_per_vector(dim, dtype) + stored) <= memory_bytes)

    if count <= _EXACT_UP_TO:
        return "flat"
    # Rescoring with stored vectors offsets the loss of product quantisation; it is slow if they are read from disk.
    return "ivf_sq8" if not fits("ivf_pq", with_stored=True) and fits("ivf_sq8") else "ivf_pq"


def list_count(count: int, training: int) -> int:
    """Return the number of IVF lists for a number of vectors."""
    return max(1, min(round(4 * math.sqrt(count)), training // _LEAST_OF_A_LIST, _MOST_LISTS))


def _steps(first: int, last: int) -> Iterator[int]:
    step = first
    while step < last:
        yield step
        step = max(step + 1, step * 5 // 4)
    yield last


def _subvectors(dim: int) -> int:
    """Return the number of pieces per vector for product quantisation: of four features each, or a few more."""
    return next(pieces for pieces in range(max(1, dim // 4), 0, -1) if dim % pieces == 0)
