"""The rank of each query's own target among all targets: one more than are in front of it, and of its equals half are.

Where a query's clip has several targets, the rank is that of the best of them (Kiros et al. 2014, and the tables of
MSR-VTT's full split since), and its others are not in its way. Of two conventions about the rest, either by its name:
- among "rows": every target of other clips counts (collaborative experts, QB-Norm);
- among "clips": of every other clip only its best target counts (CLIP4Clip's table of MSVD), which gives lower ranks.
Ties would be won by whoever sorts kindly: where all scores are equal, the rank of any among N is (N + 1) / 2 here.
Legend: Q queries of this rank, N targets of all ranks, r and c those of a tile, g its clips, D features.

What ranks say together: recalls, the median and the mean rank, of one direction or of both.

Legend: Q queries of this rank, n all ranks' queries that have a rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from trichord.core.errors import UserError
from trichord.pretrain.collectives import gather_unequal_rows
from trichord.pretrain.retrieval.scores import SCALE, Cosine, DualSoftmax, QueryBank, Scoring, Way
from trichord.pretrain.retrieval.tiles import MEMORY_BYTES, MISSING, Side, Tile, Tiles

Among = Literal["rows", "clips"]
COSINE = Cosine()


@torch.no_grad()
def own_ranks(
    queries: Side,
    targets: Side,
    scoring: Scoring = COSINE,
    among: Among = "rows",
    memory_bytes: int = MEMORY_BYTES,
) -> Tensor:
    """Rank this rank's queries among all ranks' targets; NaN for one that is missing or has no target.

    All ranks call it, each with its own queries and its own targets. Beside all targets' rows, which every rank
    gathers once, it takes `memory_bytes` and some numbers for each query and target.
    """
    queries.check("the queries")
    targets.check("the targets")
    return ranks_among(targets.gathered(), queries, scoring, among, memory_bytes)


@torch.no_grad()
def ranks_among(found: Side, queries: Side, scoring: Scoring, among: Among, memory_bytes: int) -> Tensor:
    """Rank this rank's queries among targets that have been gathered; both sides have been checked."""
    has_target_Q = (queries.clips_n >= 0) & torch.isin(queries.clips_n, found.clips_n)
    places_q = has_target_Q.nonzero()[:, 0]
    places_q = places_q[queries.clips_n[places_q].argsort(stable=True)]
    asked = queries.where(places_q)
    ranks_Q = torch.full((len(queries),), torch.nan, dtype=torch.float64, device=queries.rows_nD.device)
    for is_chosen_q, way in scoring.ways(asked.rows_nD, found.rows_nD, memory_bytes):
        ranks_Q[places_q[is_chosen_q]] = _rank(asked.where(is_chosen_q), found, way, among, memory_bytes)
    return ranks_Q


def _rank(queries: Side, targets: Side, way: Way, among: Among, memory_bytes: int) -> Tensor:
    """Rank queries that all have targets; both sides come by the numbers of their clips."""
    borders = None
    if among == "clips":
        borders = targets.clips_n.unique_consecutive(return_counts=True)[1].cumsum(0).tolist()
    tiles = Tiles(queries.rows_nD, targets.rows_nD, memory_bytes, borders)
    ranks = [torch.empty(0, dtype=torch.float64, device=queries.rows_nD.device)]
    for rows in tiles.rows():
        clips_r = queries.clips_n[rows]
        # Both are in order, so that own targets are in few tiles.
        first = int(torch.searchsorted(targets.clips_n, clips_r[0]))
        last = int(torch.searchsorted(targets.clips_n, clips_r[-1], right=True))
        own_r1 = clips_r.new_full((len(clips_r), 1), -torch.inf, dtype=torch.float64)
        for tile in tiles.of(rows, near=(first, last)):
            way(tile)
            tile.values_rc.masked_fill_(clips_r[:, None] != targets.clips_n[tile.columns], -torch.inf)
            own_r1 = own_r1.maximum(tile.values_rc.amax(dim=1, keepdim=True))
        in_front_r, equal_r = torch.zeros_like(clips_r), torch.zeros_like(clips_r)
        for tile in tiles.of(rows):
            way(tile)
            if tile.columns.start < last and tile.columns.stop > first:
                tile.values_rc.masked_fill_(clips_r[:, None] == targets.clips_n[tile.columns], -torch.inf)
            scores = tile.values_rc if among == "rows" else _best_of_clips(tile, targets.clips_n[tile.columns])
            in_front_r += (scores > own_r1).sum(dim=1)
            equal_r += (scores == own_r1).sum(dim=1)
        ranks.append(1 + in_front_r + equal_r.double() / 2)
    return torch.cat(ranks)


def _best_of_clips(tile: Tile, clips_c: Tensor) -> Tensor:
    """Give each clip's greatest score of a tile."""
    of_c = clips_c.unique_consecutive(return_inverse=True)[1]
    best_rg = tile.spare_rc[:, : int(of_c[-1]) + 1].fill_(-torch.inf)
    return best_rg.scatter_reduce_(1, of_c.expand_as(tile.values_rc), tile.values_rc, "amax")


RECALLS = (1, 5, 10)
MEDIAN, MEAN, QUERIES = "median rank", "mean rank", "queries"


@torch.no_grad()
def rank_figures(ranks_Q: Tensor) -> dict[str, float]:
    """Give R@1, R@5 and R@10 in shares of 1, the median and the mean rank, and of how many queries, over all ranks."""
    gathered_N = gather_unequal_rows(ranks_Q)
    sorted_n = gathered_N[~gathered_N.isnan()].sort().values
    count = len(sorted_n)
    if not count:
        raise UserError("retrieval: no query has a target of its own; are both sides' clips numbered alike?")
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
    """Measure two sides both ways and give figures by what was measured, such as "text to video".

    The second side has one row for each clip, the first has any number. Where several are found for a video, figures
    among clips come beside those among rows. Names tell what corrected for hubs: the dual softmax, if it has a scale,
    and the bank of unit rows of each side's kind that `banks` has, of queries that are not of the test.
    """
    (one, several), (other, single) = sides.items()
    several.check(one)
    single.check(other)
    gathered = {one: several.gathered(), other: single.gathered()}
    _refuse_repeated(other, gathered[other].clips_n)
    is_plural = bool((gathered[one].clips_n.diff() == 0).any())
    found: dict[str, dict[str, float]] = {}
    for asks, gives in ((one, other), (other, one)):
        scorings: list[Scoring] = [COSINE]
        scorings += [DualSoftmax(dual_softmax)] if dual_softmax is not None else []
        scorings += [QueryBank(banks[asks])] if banks and asks in banks else []
        ways: tuple[Among, ...] = ("rows", "clips") if is_plural and gives == one else ("rows",)
        for scoring in scorings:
            for among in ways:
                ranks_Q = ranks_among(gathered[gives], sides[asks], scoring, among, memory_bytes)
                notes = (f"{asks} to {gives}", scoring.name, "best of each clip" if among == "clips" else "")
                found[", ".join(note for note in notes if note)] = rank_figures(ranks_Q)
    return found


def _refuse_repeated(name: str, clips_N: Tensor) -> None:
    """Stop where a clip comes twice, for it would be asked twice; numbers come in order."""
    again_n = clips_N[1:][clips_N.diff() == 0].unique()
    if len(again_n):
        raise UserError(
            f"retrieval: {len(again_n):,} clips, such as clip {int(again_n[0])}, have several rows of {name}, expected "
            "one: each would be asked. Where a sampler repeats clips to fill ranks, give the repeated ones the clip "
            f"{MISSING}."
        )
