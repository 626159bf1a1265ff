"""How much an index must look at to find what an exact search finds: the least that meets a target of recall.

It is asked what it will be asked: captions, whose vectors lie elsewhere than those of videos. Half of the queries
decide the settings, the other half say what recall they have. A neighbour counts as found by its score, so that of
equal ones any will do. Legend: Q queries, D features, k neighbours.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trichord.finetune.retrieval.kinds import Searcher
from trichord.finetune.retrieval.spec import Settings

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
