"""The rank of each query's own target among all targets: one more than are in front of it, and of its equals half are.

Where a query's clip has several targets, the rank is that of the best of them (Kiros et al. 2014, and the tables of
MSR-VTT's full split since), and its others are not in its way. Of two conventions about the rest, either by its name:
- among "rows": every target of other clips counts (collaborative experts, QB-Norm);
- among "clips": of every other clip only its best target counts (CLIP4Clip's table of MSVD), which gives lower ranks.
Ties would be won by whoever sorts kindly: where all scores are equal, the rank of any among N is (N + 1) / 2 here.
Legend: Q queries of this rank, N targets of all ranks, r and c those of a tile, g its clips, D features.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from trichord.pretrain.retrieval.scores import Cosine, Scoring, Way
from trichord.pretrain.retrieval.side import Side
from trichord.pretrain.retrieval.tiles import MEMORY_BYTES, Tile, Tiles

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
