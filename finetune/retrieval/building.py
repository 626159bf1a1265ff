"""Writing of segments, block by block within a memory budget, and tuning of their search settings.

Tuning selects the fastest settings that meet a target recall against an exact search. Queries are captions, as in
later use, because their vectors are distributed differently from those of videos. Half of the queries select the
settings, the other half measure their recall. A neighbour counts as found by its score, so that any of several equal
ones will do. Legend: Q queries, N rows, n some of them, D features, k neighbours.
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
from trichord.finetune.retrieval.kinds import FACTORS, Searcher, choose, list_count
from trichord.finetune.retrieval.rows import Source, write_rows
from trichord.finetune.retrieval.segment import QUERIES, ROWS, SEARCH, VECTORS
from trichord.finetune.retrieval.spec import (
    INDEX_KINDS,
    Catalogue,
    IndexFile,
    Kind,
    MeasuredRecall,
    SearchSettings,
    SegmentEntry,
)
from trichord.finetune.retrieval.table import whole, write_table
from trichord.finetune.retrieval.vectors import exact_neighbours, let_go, open_vectors, write_vectors

MOST_QUERIES = 1024
_BLOCK_BYTES = 32 << 20
_OF_A_LIST = 40  # training vectors for each of IVF's lists: this takes most of a build's time
_TRAINING_SHARE = 4  # divides the memory to limit training vectors; FAISS may copy them once


@dataclass(frozen=True)
class Options:
    """Options for building segments."""

    memory_bytes: int = 4 << 30
    recall: float = 0.97
    kind: Kind | None = None  # None: chosen by the number of vectors and the memory
    seed: int = 0


@dataclass(frozen=True)
class Queries:
    """Queries for tuning a search, and what they are."""

    vectors_QD: NDArray[np.float32]
    of: str


def write_segment(
    folder: Path, catalogue: Catalogue, sources: Sequence[Source], queries: Queries, options: Options
) -> SegmentEntry:
    """Write the files of a segment and return its entry; they are not read before a catalogue names them."""
    name = f"segment-{catalogue.next_number:05d}"
    own = folder / name
    count = sum(len(source.keep_n) for source in sources)
    try:
        if own.exists():  # left by an interrupted build: no catalogue names it
            shutil.rmtree(own)
        own.mkdir(parents=True)
        write_rows(own / ROWS, sources)
        write_table(own / QUERIES, {"query": whole(queries.vectors_QD)}, {"of": queries.of})
        at_once = max(1, _BLOCK_BYTES // (4 * catalogue.dim))
        write_vectors(own / VECTORS, catalogue.dim, catalogue.dtype, count, _blocks(sources, at_once))
        kind = options.kind or choose(count, catalogue.dim, catalogue.dtype, options.memory_bytes)
        vectors, vectors_ND = open_vectors(own / VECTORS, catalogue.dim, catalogue.dtype, count)
        of_kind: type[Searcher] = INDEX_KINDS[kind]
        if not of_kind.is_exact:
            _write_search(own / SEARCH, of_kind, catalogue, vectors_ND, options)
        searcher = of_kind.open(vectors, own / SEARCH)
        settings, measured = _measure(searcher, vectors_ND, queries, options.recall)
        files = {path.name: _entry(path) for path in sorted(own.iterdir())}
        sync(own)
    except OSError as error:
        shutil.rmtree(own, ignore_errors=True)
        raise UserError(
            f"{own} cannot be written: {error}. The index is unchanged. Next: fix this, then repeat the command"
        ) from error
    return SegmentEntry(name=name, count=count, kind=kind, settings=settings, measured=measured, files=files)


def _blocks(sources: Sequence[Source], at_once: int) -> Iterator[NDArray[Any]]:
    for source in sources:
        yield from source.blocks(at_once)
        let_go(source.vectors_ND)


def _write_search(
    path: Path, kind: type[Searcher], catalogue: Catalogue, vectors_ND: NDArray[Any], options: Options
) -> None:
    """Train on vectors drawn from all shards, because those of one shard are similar; then add all vectors."""
    count, dim = vectors_ND.shape
    index = kind.create(dim, catalogue.dtype, 1)
    if kind.is_trained:
        most = min(count, max(1, options.memory_bytes // _TRAINING_SHARE // (4 * dim)))
        lists = list_count(count, most)
        drawn_n = np.sort(generator(options.seed, "train index").choice(count, min(most, _OF_A_LIST * lists), False))
        index = kind.create(dim, catalogue.dtype, lists)
        index.train(vectors_ND[drawn_n].astype(np.float32))
    at_once = max(1, _BLOCK_BYTES // (4 * dim))
    for first in track(range(0, count, at_once), "blocks of vectors"):
        index.add(np.ascontiguousarray(vectors_ND[first : first + at_once], dtype=np.float32))
        let_go(vectors_ND)
    temporary = temporary_path(path)
    try:
        kind.write(index, temporary)
        sync(temporary)
        temporary.replace(path)
    except RuntimeError as error:  # raised by FAISS when the disk is full
        raise OSError(f"FAISS could not write it: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _measure(
    searcher: Searcher, vectors_ND: NDArray[Any], queries: Queries, target: float
) -> tuple[SearchSettings, MeasuredRecall]:
    queries_QD = queries.vectors_QD
    if searcher.is_exact:
        return SearchSettings(), MeasuredRecall(queries=0, of=queries.of, recall=1.0, target=target)
    k = min(NEIGHBOURS, len(vectors_ND))
    scores_Qk, _ = exact_neighbours(vectors_ND, queries_QD, k)
    let_go(vectors_ND)
    asked = Asked(queries_QD, scores_Qk[:, -1])
    tuned = tune(searcher, Asked(*(each[::2] for each in asked)), target, k)
    others = Asked(*(each[1::2] for each in asked))
    found = recall(searcher, others, tuned.settings, k) if len(others.least_Q) else tuned.recall
    return tuned.settings, MeasuredRecall(queries=len(others.least_Q), of=queries.of, recall=found, target=target)


def _entry(path: Path) -> IndexFile:
    with path.open("rb") as file:
        return IndexFile(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


NEIGHBOURS = 10
_SAME_SCORE = 1e-5
_LEAST_GAIN = 1e-3  # in recall from 1.5 times as many lists; a smaller gain means that the codes limit recall
_MARGIN = 2.0  # standard errors above the target: with one, other queries would miss it in one case of four


class Asked(NamedTuple):
    """Queries, and the score of the exact k-th neighbour of each."""

    queries_QD: NDArray[np.float32]
    least_Q: NDArray[np.float32]


class Tuned(NamedTuple):
    """Settings, their recall and time on the queries that selected them; inf seconds: target missed."""

    settings: SearchSettings
    recall: float
    seconds: float


def recall(searcher: Searcher, asked: Asked, settings: SearchSettings, k: int = NEIGHBOURS) -> float:
    """Return the share of the exact k neighbours that is found."""
    return float(_shares(searcher, asked, settings, k).mean())


def _shares(searcher: Searcher, asked: Asked, settings: SearchSettings, k: int) -> NDArray[np.float64]:
    """Return the share of found neighbours for each query."""
    scores_Qk, rows_Qk = searcher.search(asked.queries_QD, k, settings)
    is_hit_Qk = (scores_Qk >= asked.least_Q[:, None] - _SAME_SCORE) & (rows_Qk >= 0)
    shares_Q: NDArray[np.float64] = is_hit_Qk.mean(axis=1)
    return shares_Q


def tune(searcher: Searcher, asked: Asked, target: float, k: int = NEIGHBOURS) -> Tuned:
    """Return the fastest settings that meet the target, or those with the highest recall if none do."""
    if searcher.is_exact:
        return Tuned(SearchSettings(), 1.0, 0.0)
    met: list[Tuned] = []
    missed: list[Tuned] = []
    for schedule in searcher.schedules():
        found = _first_to_meet(searcher, asked, target, k, schedule)
        (met if found.seconds < np.inf else missed).append(found)
    return min(met, key=lambda each: each.seconds) if met else max(missed, key=lambda each: each.recall)


def _first_to_meet(
    searcher: Searcher, asked: Asked, target: float, k: int, schedule: Iterator[SearchSettings]
) -> Tuned:
    """Try settings in order of work until the target is met, or until more work does not improve recall."""
    best, before = Tuned(SearchSettings(), -1.0, np.inf), [-1.0, -1.0]
    for settings in schedule:
        shares_Q = _shares(searcher, asked, settings, k)
        found = float(shares_Q.mean())
        if found - _MARGIN * float(shares_Q.std()) / math.sqrt(len(shares_Q)) >= target:
            return Tuned(settings, found, _seconds(searcher, asked, settings, k))
        best = max(best, Tuned(settings, found, np.inf), key=lambda each: each.recall)
        if found - before[0] < _LEAST_GAIN and settings.factor < FACTORS[-1] and settings.probes > 8:
            break
        before = [before[1], found]
    return best


def _seconds(searcher: Searcher, asked: Asked, settings: SearchSettings, k: int) -> float:
    times_s = []
    for _ in range(2):
        started = time.perf_counter()
        searcher.search(asked.queries_QD, k, settings)
        times_s.append(time.perf_counter() - started)
    return min(times_s)
