"""Naive retrieval, query by query and target by target over whole matrices, and data to apply it to.

Legend: Q queries, N targets, K queries of a bank, D features.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from trichord.pretrain.retrieval.scores import Side

Matrix = NDArray[np.float64]
CLIPS, CAPTIONS, DIM = 13, 3, 8


def draw(kind: str, seed: int = 0) -> tuple[Side, Side, torch.Tensor, torch.Tensor]:
    """Draw captions and videos, three captions per clip, and banks of either kind.

    One clip lacks a caption, one has none, and the video of one caption is missing; clips are unordered. In "integers"
    all cosines are quarters, "constant" rows are all one, and "twins" are drawn from few rows, so that many are equal.
    """
    generator = torch.Generator().manual_seed(seed)
    several = torch.arange(CLIPS).repeat_interleave(CAPTIONS)[torch.randperm(CLIPS * CAPTIONS, generator=generator)]
    several[(several == 4).nonzero()[1]] = -1
    several[several == 7] = -1
    single = torch.randperm(CLIPS, generator=generator)
    single[single == 11] = -1
    rows = [draw_rows(kind, count, generator) for count in (len(several), len(single), 31, 17)]
    rows[0][several < 0] = torch.nan  # the contents of a missing row must not matter
    return Side(rows[0], several), Side(rows[1], single), rows[2], rows[3]


def draw_rows(kind: str, count: int, generator: torch.Generator) -> torch.Tensor:
    rows_nD = torch.nn.functional.normalize(torch.randn(count, DIM, generator=generator))
    if kind == "constant":
        return rows_nD[:1].repeat(count, 1)
    if kind == "twins":
        few_nD = torch.nn.functional.normalize(torch.randn(5, DIM, generator=torch.Generator().manual_seed(9)))
        return few_nD[torch.randint(5, (count,), generator=generator)]
    if kind == "integers":
        places_n4 = rows_nD.argsort(dim=1)[:, :4]
        return torch.zeros(count, DIM).scatter_(1, places_n4, 0.5) * rows_nD.sign()
    return rows_nD


def cosines(one: torch.Tensor, other: torch.Tensor) -> Matrix:
    return np.array([[float(np.dot(a, b)) for b in other.double().numpy()] for a in one.double().numpy()])


def ranks(scores_QN: Matrix, asked: list[int], found: list[int], among: str = "rows") -> list[float]:
    """Rank queries among targets; NaN where a query has no target."""
    own_ranks = []
    for scores_N, clip in zip(scores_QN, asked, strict=True):
        own = [score for score, other in zip(scores_N, found, strict=True) if other == clip >= 0]
        if not own:
            own_ranks.append(float("nan"))
            continue
        others = [(score, other) for score, other in zip(scores_N, found, strict=True) if other not in (clip, -1)]
        if among == "clips":
            others = [(max(s for s, c in others if c == each), each) for each in {other for _, other in others}]
        best = max(own)
        greater = sum(is_greater(score, best) for score, _ in others)
        ties = 1 + sum(not is_greater(score, best) and not is_greater(best, score) for score, _ in others)
        own_ranks.append(greater + (ties + 1) / 2)
    return own_ranks


def is_greater(one: float, other: float) -> bool:
    """Return whether a score is greater by more than rounding."""
    return one - other > 2**-32 * max(abs(one), abs(other))


def dual_softmax(cosines_QN: Matrix, scale: float) -> Matrix:
    """Multiply the cosines of each target by their softmax over queries."""
    weights_QN = np.exp(scale * cosines_QN)
    return scale * cosines_QN * (weights_QN / weights_QN.sum(axis=0))


def query_bank(cosines_QN: Matrix, bank_KN: Matrix, beta: float) -> Matrix:
    """Normalise by the bank those queries whose nearest target is also the nearest of a query of the bank."""
    near = {t for row_N in bank_KN for t in range(len(row_N)) if not any(is_greater(x, row_N[t]) for x in row_N)}
    sums_N = np.exp(beta * bank_KN).sum(axis=0)
    scores_QN = cosines_QN.copy()
    for q, row_N in enumerate(cosines_QN):
        if any(t in near for t in range(len(row_N)) if not any(is_greater(x, row_N[t]) for x in row_N)):
            scores_QN[q] = np.exp(beta * row_N) / sums_N
    return scores_QN
