"""Writes a segment: rows of parts or of other segments go in block by block, within a budget of memory.

Legend: Q queries, N rows, n some of them, D features.

How much an index must look at to find what an exact search finds: the least that meets a target of recall.

It is asked what it will be asked: captions, whose vectors lie elsewhere than those of videos. Half of the queries
decide the settings, the other half say what recall they have. A neighbour counts as found by its score, so that of
equal ones any will do. Legend: Q queries, D features, k neighbours.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trichord.core.console import track
from trichord.core.errors import UserError
from trichord.core.files import sync, temporary_path
from trichord.core.seeds import generator
from trichord.finetune.retrieval import kinds
from trichord.finetune.retrieval.kinds import Searcher
from trichord.finetune.retrieval.rows import Source, write_rows
from trichord.finetune.retrieval.segment import QUERIES, ROWS, SEARCH, VECTORS
from trichord.finetune.retrieval.spec import Catalogue, FileEntry, Kind, Measured, SegmentEntry, Settings
from trichord.finetune.retrieval.table import whole, write_table
from trichord.finetune.retrieval.vectors import exact_neighbours, let_go, open_vectors, write_vectors

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


NEIGHBOURS = 10
_SAME_SCORE = 1e-5
_FACTORS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
_LEAST_GAIN = 1e-3  # of recall by half as many lists again, below which it is the codes that fall short
_MOST_CANDIDATES = 4096
_SURE = 2.0  # standard errors above the target: with one, other queries would miss it one time in four


class Asked(NamedTuple):
    """Queries, and the score of each one's k-th neighbour."""

    queries_QD: NDArray[np.float32]
    least_Q: NDArray[np.float32]


class Tuned(NamedTuple):
    """Settings, their recall on the queries that they were chosen by, and the seconds of these; inf: target missed."""

    settings: Settings
    recall: float
    seconds: float


def recall(searcher: Searcher, asked: Asked, settings: Settings, k: int = NEIGHBOURS) -> float:
    """Say which share of the exact k neighbours is found."""
    return float(_shares(searcher, asked, settings, k).mean())


def _shares(searcher: Searcher, asked: Asked, settings: Settings, k: int) -> NDArray[np.float64]:
    """Say it of each query."""
    scores_Qk, rows_Qk = searcher.search(asked.queries_QD, k, settings)
    is_hit_Qk = (scores_Qk >= asked.least_Q[:, None] - _SAME_SCORE) & (rows_Qk >= 0)
    shares_Q: NDArray[np.float64] = is_hit_Qk.mean(axis=1)
    return shares_Q


def tune(searcher: Searcher, asked: Asked, target: float, k: int = NEIGHBOURS) -> Tuned:
    """Find the quickest settings that meet the target; those with the most recall where none do."""
    if searcher.kind == "flat":
        return Tuned(Settings(), 1.0, 0.0)
    met: list[Tuned] = []
    missed: list[Tuned] = []
    for ladder in _ladders(searcher):
        found = _climb(searcher, asked, target, k, ladder)
        (met if found.seconds < np.inf else missed).append(found)
    return min(met, key=lambda each: each.seconds) if met else max(missed, key=lambda each: each.recall)


def _ladders(searcher: Searcher) -> Iterator[Iterator[Settings]]:
    """Give settings from little work to much, a ladder for each number of candidates that are looked at again."""
    if searcher.kind == "hnsw":
        yield (Settings(candidates=step) for step in _steps(16, _MOST_CANDIDATES))
        return
    for factor in _FACTORS if searcher.kind in ("ivf_sq8", "ivf_pq") else (1.0,):
        yield _with_factor(searcher.lists, factor)


def _with_factor(lists: int, factor: float) -> Iterator[Settings]:
    return (Settings(probes=probes, factor=factor) for probes in _steps(1, lists))


def _steps(first: int, last: int) -> Iterator[int]:
    step = first
    while step < last:
        yield step
        step = max(step + 1, step * 5 // 4)
    yield last


def _climb(searcher: Searcher, asked: Asked, target: float, k: int, ladder: Iterator[Settings]) -> Tuned:
    """Go up a ladder until the target is met, or more work finds nothing more."""
    best, before = Tuned(Settings(), -1.0, np.inf), [-1.0, -1.0]
    for settings in ladder:
        shares_Q = _shares(searcher, asked, settings, k)
        found = float(shares_Q.mean())
        if found - _SURE * float(shares_Q.std()) / math.sqrt(len(shares_Q)) >= target:
            return Tuned(settings, found, _seconds(searcher, asked, settings, k))
        best = max(best, Tuned(settings, found, np.inf), key=lambda each: each.recall)
        if found - before[0] < _LEAST_GAIN and settings.factor < _FACTORS[-1] and settings.probes > 8:
            break
        before = [before[1], found]
    return best


def _seconds(searcher: Searcher, asked: Asked, settings: Settings, k: int) -> float:
    taken = []
    for _ in range(2):
        started = time.perf_counter()
        searcher.search(asked.queries_QD, k, settings)
        taken.append(time.perf_counter() - started)
    return min(taken)
