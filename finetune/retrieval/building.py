"""Writes a segment: rows of parts or of other segments go in block by block, within a budget of memory.

Legend: Q queries, N rows, n some of them, D features.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trichord.core.console import track
from trichord.core.errors import UserError
from trichord.core.files import sync, temporary_path
from trichord.core.seeds import generator
from trichord.finetune.retrieval import kinds
from trichord.finetune.retrieval.exact import exact_neighbours
from trichord.finetune.retrieval.rows import Source, write_rows
from trichord.finetune.retrieval.segment import QUERIES, ROWS, SEARCH, VECTORS
from trichord.finetune.retrieval.spec import Catalogue, FileEntry, Kind, Measured, SegmentEntry, Settings
from trichord.finetune.retrieval.table import whole, write_table
from trichord.finetune.retrieval.tune import NEIGHBOURS, Asked, recall, tune
from trichord.finetune.retrieval.vectors import let_go, open_vectors, write_vectors

MOST_QUERIES = 1024
_BLOCK_BYTES = 32 << 20
_OF_A_LIST = 40  # vectors that each of IVF's lists is trained with: most of a build's time goes into it
_TRAINING_SHARE = 4  # of the memory goes to training vectors; FAISS may copy them once


@dataclass(frozen=True)
class Options:
    """How segments are made."""

    memory_bytes: int = 4 << 30
    recall: float = 0.97
    kind: Kind | None = None  # none: by the number of vectors and the memory
    seed: int = 0


@dataclass(frozen=True)
class Queries:
    """What a search is tuned by, and what that is."""

    vectors_QD: NDArray[np.float32]
    of: str


def write_segment(
    folder: Path, catalogue: Catalogue, sources: Sequence[Source], queries: Queries, options: Options
) -> SegmentEntry:
    """Write a folder of files and say what is in it; nobody reads them before a catalogue names them."""
    name = f"segment-{catalogue.next_number:05d}"
    own = folder / name
    count = sum(len(source.keep_n) for source in sources)
    try:
        if own.exists():  # of a build that was interrupted: no catalogue names it
            shutil.rmtree(own)
        own.mkdir(parents=True)
        write_rows(own / ROWS, sources)
        write_table(own / QUERIES, {"query": whole(queries.vectors_QD)}, {"of": queries.of})
        at_once = max(1, _BLOCK_BYTES // (4 * catalogue.dim))
        write_vectors(own / VECTORS, catalogue.dim, catalogue.dtype, count, _blocks(sources, at_once))
        kind = options.kind or kinds.choose(count, catalogue.dim, catalogue.dtype, options.memory_bytes)
        vectors, vectors_ND = open_vectors(own / VECTORS, catalogue.dim, catalogue.dtype, count)
        if kind != "flat":
            _write_search(own / SEARCH, kind, catalogue, vectors_ND, options)
        searcher = kinds.Searcher.open(kind, vectors, own / SEARCH)
        settings, measured = _measure(searcher, vectors_ND, queries, options.recall)
        files = {path.name: _entry(path) for path in sorted(own.iterdir())}
        sync(own)
    except OSError as error:
        shutil.rmtree(own, ignore_errors=True)
        raise UserError(
            f"{own} cannot be written: {error}. The index is as it was. Next: the same command, when that is mended"
        ) from error
    return SegmentEntry(name=name, count=count, kind=kind, settings=settings, measured=measured, files=files)


def _blocks(sources: Sequence[Source], at_once: int) -> Iterator[NDArray[Any]]:
    for source in sources:
        yield from source.blocks(at_once)
        let_go(source.vectors_ND)


def _write_search(path: Path, kind: Kind, catalogue: Catalogue, vectors_ND: NDArray[Any], options: Options) -> None:
    """Train on vectors drawn from all, for those of one shard are alike, and add all."""
    count, dim = vectors_ND.shape
    index = kinds.make(kind, dim, catalogue.dtype, 1)
    if kind != "hnsw":
        most = min(count, max(1, options.memory_bytes // _TRAINING_SHARE // (4 * dim)))
        lists = kinds.list_count(count, most)
        drawn_n = np.sort(generator(options.seed, "train index").choice(count, min(most, _OF_A_LIST * lists), False))
        index = kinds.make(kind, dim, catalogue.dtype, lists)
        index.train(vectors_ND[drawn_n].astype(np.float32))
    at_once = max(1, _BLOCK_BYTES // (4 * dim))
    for first in track(range(0, count, at_once), "blocks of vectors"):
        index.add(np.ascontiguousarray(vectors_ND[first : first + at_once], dtype=np.float32))
        let_go(vectors_ND)
    temporary = temporary_path(path)
    try:
        kinds.write(kind, index, temporary)
        sync(temporary)
        temporary.replace(path)
    except RuntimeError as error:  # what FAISS raises where a disk is full
        raise OSError(f"FAISS could not write it: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _measure(
    searcher: kinds.Searcher, vectors_ND: NDArray[Any], queries: Queries, target: float
) -> tuple[Settings, Measured]:
    asked_QD = queries.vectors_QD
    if searcher.kind == "flat":
        return Settings(), Measured(queries=0, of=queries.of, recall=1.0, target=target)
    k = min(NEIGHBOURS, len(vectors_ND))
    scores_Qk, _ = exact_neighbours(vectors_ND, asked_QD, k)
    let_go(vectors_ND)
    asked = Asked(asked_QD, scores_Qk[:, -1])
    tuned = tune(searcher, Asked(*(each[::2] for each in asked)), target, k)
    others = Asked(*(each[1::2] for each in asked))
    found = recall(searcher, others, tuned.settings, k) if len(others.least_Q) else tuned.recall
    return tuned.settings, Measured(queries=len(others.least_Q), of=queries.of, recall=found, target=target)


def _entry(path: Path) -> FileEntry:
    with path.open("rb") as file:
        return FileEntry(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())
