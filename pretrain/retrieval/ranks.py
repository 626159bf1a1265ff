"""The rank of each query's own target among all targets, and metrics of ranks: recalls, median and mean rank.

The rank is 1, plus the number of targets with a higher score, plus half the number of other targets with an equal
score. A result with ties thus does not depend on the sort order: if all N scores are equal, each rank is (N + 1) / 2.
If a query's clip has several targets, the rank is that of the best (Kiros et al. 2014, and since then the tables of
MSR-VTT's full split), and the others are not counted. For the targets of other clips, there are two conventions:
- among "rows": every target of other clips counts (collaborative experts, QB-Norm);
- among "clips": only the best target of every other clip counts (CLIP4Clip's table of MSVD), which gives lower ranks.
Legend: Q queries of this process, N targets of all processes, r and c those of a tile, g its clips, D features; of
metrics, n the queries of all processes that have a rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from trichord.core.errors import UserError
from trichord.pretrain.collectives import gather_unequal_rows
from trichord.pretrain.retrieval.scores import (
    MEMORY_BYTES,
    MISSING,
    SCALE,
    Conversion,
    CosineScoring,
    DualSoftmax,
    QueryBank,
    ScoreTile,
    ScoreTiles,
    Scoring,
    Side,
)

Among = Literal["rows", "clips"]
COSINE = CosineScoring()


@torch.no_grad()
def own_ranks(
    queries: Side,
    targets: Side,
    scoring: Scoring = COSINE,
    among: Among = "rows",
    memory_bytes: int = MEMORY_BYTES,
) -> Tensor:
    """Return the ranks of this process's queries among the targets of all; NaN if a query is missing or has no target.

    All processes must call it, each with its own queries and targets. In addition to the rows of all targets, which
    every process gathers once, it uses `memory_bytes` and a few numbers per query and target.
    """
    queries.check("the queries")
    targets.check("the targets")
    return ranks_among(targets.gathered(), queries, scoring, among, memory_bytes)


@torch.no_grad()
def ranks_among(found: Side, queries: Side, scoring: Scoring, among: Among, memory_bytes: int) -> Tensor:
    """Return the ranks of this process's queries among gathered targets; both sides must have been checked."""
    has_target_Q = (queries.clips_n >= 0) & torch.isin(queries.clips_n, found.clips_n)
    places_q = has_target_Q.nonzero()[:, 0]
    places_q = places_q[queries.clips_n[places_q].argsort(stable=True)]
    valid = queries.where(places_q)
    ranks_Q = torch.full((len(queries),), torch.nan, dtype=torch.float64, device=queries.rows_nD.device)
    for is_chosen_q, convert in scoring.conversions(valid.rows_nD, found.rows_nD, memory_bytes):
        ranks_Q[places_q[is_chosen_q]] = _rank(valid.where(is_chosen_q), found, convert, among, memory_bytes)
    return ranks_Q


def _rank(queries: Side, targets: Side, convert: Conversion, among: Among, memory_bytes: int) -> Tensor:
    """Return ranks of queries that all have targets; both sides must be sorted by the numbers of their clips."""
    borders = None
    if among == "clips":
        borders = targets.clips_n.unique_consecutive(return_counts=True)[1].cumsum(0).tolist()
    tiles = ScoreTiles(queries.rows_nD, targets.rows_nD, memory_bytes, borders)
    ranks = [torch.empty(0, dtype=torch.float64, device=queries.rows_nD.device)]
    for rows in tiles.rows():
        clips_r = queries.clips_n[rows]
        # Both sides are sorted, so own targets are in few tiles.
        first = int(torch.searchsorted(targets.clips_n, clips_r[0]))
        last = int(torch.searchsorted(targets.clips_n, clips_r[-1], right=True))
        own_r1 = clips_r.new_full((len(clips_r), 1), -torch.inf, dtype=torch.float64)
        for tile in tiles.of(rows, near=(first, last)):
            convert(tile)
            tile.values_rc.masked_fill_(clips_r[:, None] != targets.clips_n[tile.columns], -torch.inf)
            own_r1 = own_r1.maximum(tile.values_rc.amax(dim=1, keepdim=True))
        in_front_r, equal_r = torch.zeros_like(clips_r), torch.zeros_like(clips_r)
        for tile in tiles.of(rows):
            convert(tile)
            if tile.columns.start < last and tile.columns.stop > first:
                tile.values_rc.masked_fill_(clips_r[:, None] == targets.clips_n[tile.columns], -torch.inf)
            scores = tile.values_rc if among == "rows" else _best_of_clips(tile, targets.clips_n[tile.columns])
            in_front_r += (scores > own_r1).sum(dim=1)
            equal_r += (scores == own_r1).sum(dim=1)
        ranks.append(1 + in_front_r + equal_r.double() / 2)
    return torch.cat(ranks)


def _best_of_clips(tile: ScoreTile, clips_c: Tensor) -> Tensor:
    """Return the highest score of each clip in a tile."""
    of_c = clips_c.unique_consecutive(return_inverse=True)[1]
    best_rg = tile.spare_rc[:, : int(of_c[-1]) + 1].fill_(-torch.inf)
    return best_rg.scatter_reduce_(1, of_c.expand_as(tile.values_rc), tile.values_rc, "amax")


RECALLS = (1, 5, 10)
MEDIAN, MEAN, QUERIES = "median rank", "mean rank", "queries"


@torch.no_grad()
def rank_figures(ranks_Q: Tensor) -> dict[str, float]:
    """Return R@1, R@5 and R@10 as fractions, the median and mean rank and the number of queries, over all processes."""
    gathered_N = gather_unequal_rows(ranks_Q)
    sorted_n = gathered_N[~gathered_N.isnan()].sort().values
    count = len(sorted_n)
    if not count:
        raise UserError("retrieval: no query has a target of its own; expected both sides to use the same clip numbers")
    middle = (float(sorted_n[(count - 1) // 2]) + float(sorted_n[count // 2])) / 2
    shares = {f"R@{k}": float((sorted_n <= k).double().mean()) for k in RECALLS}
    return {**shares, MEDIAN: middle, MEAN: float(sorted_n.mean()), QUERIES: float(count)}


@torch.no_grad()
def measure(
    sides: Mapping[str, Side],
    *,
    dual_softmax: float | None = SCALE,
    banks: Mapping[str, Tensor] | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> dict[str, dict[str, float]]:
    """Evaluate retrieval between two sides in both directions; return figures by name, such as "text to video".

    The second side has one row for each clip, the first any number. If a video has several targets, figures among clips
    are added to those among rows. Names include the correction for hubs: the dual softmax, if a scale is given, and
    QB-Norm, if `banks` has unit rows of the query side, from queries that are not part of the test.
    """
    (one, several), (other, single) = sides.items()
    several.check(one)
    single.check(other)
    gathered = {one: several.gathered(), other: single.gathered()}
    _refuse_repeated(other, gathered[other].clips_n)
    is_plural = bool((gathered[one].clips_n.diff() == 0).any())
    found: dict[str, dict[str, float]] = {}
    for query, target in ((one, other), (other, one)):
        scorings: list[Scoring] = [COSINE]
        scorings += [DualSoftmax(dual_softmax)] if dual_softmax is not None else []
        scorings += [QueryBank(banks[query])] if banks and query in banks else []
        conventions: tuple[Among, ...] = ("rows", "clips") if is_plural and target == one else ("rows",)
        for scoring in scorings:
            for among in conventions:
                ranks_Q = ranks_among(gathered[target], sides[query], scoring, among, memory_bytes)
                notes = (f"{query} to {target}", scoring.name, "best of each clip" if among == "clips" else "")
                found[", ".join(note for note in notes if note)] = rank_figures(ranks_Q)
    return found


def _refuse_repeated(name: str, clips_N: Tensor) -> None:
    """Raise if a clip has several rows, each of which would be a query; numbers must be sorted."""
    repeated_n = clips_N[1:][clips_N.diff() == 0].unique()
    if len(repeated_n):
        raise UserError(
            f"retrieval: expected one row of {name} per clip, found several for clip {int(repeated_n[0])} (clips with "
            f"several: {len(repeated_n):,}). If a sampler pads with repeated clips, set the clip of these rows to "
            f"{MISSING}"
        )
