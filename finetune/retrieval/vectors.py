"""Vectors on disk in FAISS's format of a flat index, so that FAISS and numpy map the same file; and exact search.

FAISS can write only an index that is in memory; here rows are written block by block after the header of an empty
index, changed to the final number of rows. Float16 rows use FAISS's scalar quantizer of that type, which is lossless.
Exact search goes block by block and is the reference for recall.
Legend: Q queries, N vectors, D features, k neighbours.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import faiss
import numpy as np
from numpy.typing import NDArray

from trichord.core.errors import UserError
from trichord.core.files import whole_file

Matrix = NDArray[Any]
_COUNT_AT = 8  # in the header: after four letters and the width
_ROUNDING = 1 << 20  # for padding of blocks
_MAPPED = faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY


def empty_flat(dim: int, dtype: str) -> Any:
    """Create an index of inner products that stores rows without loss."""
    if dtype == "float32":
        return faiss.IndexFlatIP(dim)
    return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)


def write_vectors(path: Path, dim: int, dtype: str, count: int, blocks: Iterable[Matrix]) -> None:
    """Write `count` rows from blocks."""
    with whole_file(path) as file:
        file.write(_header(dim, dtype, count))
        before = file.tell()
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype=dtype).data)
        wanted = count * dim * np.dtype(dtype).itemsize
        if file.tell() - before != wanted:
            raise RuntimeError(f"{path} got {file.tell() - before} bytes of vectors, expected {wanted}")


def open_vectors(path: Path, dim: int, dtype: str, count: int) -> tuple[Any, Matrix]:
    """Map a file twice: as a FAISS index, and as vectors_ND."""
    wanted = _header(dim, dtype, count)
    with path.open("rb") as file:
        _check(path, file, wanted, count * dim * np.dtype(dtype).itemsize)
    index = read_faiss(path, _MAPPED)
    vectors_ND = np.memmap(path, np.dtype(dtype), "r", len(wanted), (count, dim))
    return index, vectors_ND


def read_faiss(path: Path, flags: int) -> Any:
    """Read a FAISS index of any origin; raise UserError if it is damaged."""
    # Vectors that a file claims beyond its size would be allocated before they are missed.
    faiss.set_deserialization_vector_byte_limit(path.stat().st_size + _ROUNDING)
    try:
        return faiss.read_index(str(path), flags)
    except Exception as error:  # FAISS and its bindings raise several kinds, MemoryError among them
        reason = (str(error).rpartition("Error: ")[2] or type(error).__name__)[:200]
        raise UserError(f"{path} is damaged ({reason}). Next: build the index again") from error


def let_go(mapped: Matrix) -> None:
    """Release a mapped file's pages, which count as memory of this process; the system may keep them cached."""
    if isinstance(mapped, np.memmap):
        mapped._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def _check(path: Path, file: BinaryIO, wanted: bytes, rows_bytes: int) -> None:
    found, size = file.read(len(wanted)), file.seek(0, 2)
    if found != wanted or size != len(wanted) + rows_bytes:
        raise UserError(
            f"{path} has {size:,} bytes, expected {len(wanted) + rows_bytes:,} of vectors by the catalogue: it is "
            "truncated, or of another index. Next: build the index again"
        )


def _header(dim: int, dtype: str, count: int) -> bytes:
    header = bytearray(faiss.serialize_index(empty_flat(dim, dtype)).tobytes())
    # The last number is the size of the data: FAISS counts floats in an index of floats, otherwise bytes.
    units = count * dim if dtype == "float32" else 2 * count * dim
    header[_COUNT_AT : _COUNT_AT + 8] = struct.pack("<q", count)
    header[-8:] = struct.pack("<Q", units)
    return bytes(header)


Scores = NDArray[np.float32]
Ints = NDArray[np.int64]
_BLOCK_BYTES = 64 << 20


def exact_neighbours(
    vectors_ND: NDArray[Any], queries_QD: Scores, k: int, rows_n: Ints | None = None
) -> tuple[Scores, Ints]:
    """Return scores and rows of the k nearest among all vectors or some rows; row -1 where there are fewer than k."""
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
