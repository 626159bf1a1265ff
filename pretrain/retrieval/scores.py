"""The scores by which targets are ranked: cosines, or one of two corrections of cosines for hubs.

A hub is a target that is near to most queries. Both corrections weight a query's cosines by those of other queries with
the same targets, so their figures are reported separately: the dual softmax uses the other queries of the test, which
are not available for a single query; the query bank uses training queries instead.
With s the cosines of queries q with targets t:
- Dual softmax at inference (Cheng et al. 2021, arXiv 2109.04290): s_qt softmax_q(a s_qt), the softmax over queries.
- Dynamic inverted softmax of QB-Norm (Bogolin et al. 2022, arXiv 2112.12777): exp(b s_qt) / sum_k exp(b s_kt) over a
  bank's queries k, for those q whose nearest target is the nearest of some k; others keep their cosines.
Of targets that tie for nearest, each counts as nearest, so that the result does not depend on their order.
Legend: Q queries of this process, N targets of all, K rows of this process's part of a bank, r and c those of a tile.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trichord.pretrain.collectives import sum_over_ranks
from trichord.pretrain.retrieval.tiles import Side, Tile, Tiles, round_digits

SCALE, BETA = 100.0, 20.0
STEEPEST = 300.0  # exp(-2 * 300) is still a number in float64

Way = Callable[[Tile], None]  # converts a tile's cosines to scores in place


class Scoring(ABC):
    """A scoring method; `name` is part of the names of its figures and empty for cosines."""

    name: str

    @abstractmethod
    def ways(self, queries_QD: Tensor, targets_ND: Tensor, memory_bytes: int) -> list[tuple[Tensor, Way]]:
        """Return pairs of query mask and conversion; each query is in one mask. All processes must call it."""


class Cosine(Scoring):
    """Cosines without a correction."""

    name = ""

    def ways(self, queries_QD: Tensor, targets_ND: Tensor, memory_bytes: int) -> list[tuple[Tensor, Way]]:
        return [(_all(queries_QD), _keep)]


@dataclass(frozen=True)
class DualSoftmax(Scoring):
    """The dual softmax of Cheng et al. over the queries of the test; `scale` is the factor of cosines."""

    scale: float = SCALE

    def __post_init__(self) -> None:
        _check_steepness("scale", self.scale)

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"dual softmax at scale {self.scale:g} (transductive)"

    def ways(self, queries_QD: Tensor, targets_ND: Tensor, memory_bytes: int) -> list[tuple[Tensor, Way]]:
        sums_N = _sums_of_exponentials(Tiles(queries_QD, targets_ND, memory_bytes), targets_ND, self.scale)

        def weigh(tile: Tile) -> None:
            shares_rc = torch.sub(tile.values_rc, 1, out=tile.spare_rc).mul_(self.scale).exp_()
            round_digits(tile.values_rc.mul_(shares_rc).div_(sums_N[tile.columns]))

        return [(_all(queries_QD), weigh)]


@dataclass(frozen=True)
class QueryBank(Scoring):
    """QB-Norm with a bank of training queries, of which every process holds a part; its rows have length 1."""

    rows_KD: Tensor
    beta: float = BETA

    def __post_init__(self) -> None:
        _check_steepness("beta", self.beta)

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"QB-Norm at beta {self.beta:g}"

    def ways(self, queries_QD: Tensor, targets_ND: Tensor, memory_bytes: int) -> list[tuple[Tensor, Way]]:
        Side(self.rows_KD, torch.zeros_like(self.rows_KD[:, 0], dtype=torch.long)).check("the query bank")
        bank = Tiles(self.rows_KD, targets_ND, memory_bytes)
        sums_N = _sums_of_exponentials(bank, targets_ND, self.beta)
        is_near_N = _nearest_of_some(bank, targets_ND)
        del bank  # free the buffers of its tiles before allocating the next
        is_corrected_Q = _whose_nearest_is_among(is_near_N, Tiles(queries_QD, targets_ND, memory_bytes), queries_QD)

        def invert(tile: Tile) -> None:
            round_digits(tile.values_rc.sub_(1).mul_(self.beta).exp_().div_(sums_N[tile.columns]))

        return [(is_corrected_Q, invert), (~is_corrected_Q, _keep)]


def _sums_of_exponentials(tiles: Tiles, targets_ND: Tensor, steepness: float) -> Tensor:
    """Sum exp(steepness * (s - 1)) over the queries of all processes for each target; the 1 cancels in a softmax."""
    sums_N = targets_ND.new_zeros(len(targets_ND), dtype=torch.float64)
    for rows in tiles.rows():
        for tile in tiles.of(rows):
            sums_N[tile.columns] += tile.values_rc.sub_(1).mul_(steepness).exp_().sum(dim=0)
    return sum_over_ranks(sums_N)


def _nearest_of_some(tiles: Tiles, targets_ND: Tensor) -> Tensor:
    """Return a mask of the targets that are nearest to at least one query of any process."""
    counts_N = targets_ND.new_zeros(len(targets_ND), dtype=torch.int32)
    for rows in tiles.rows():
        best_r = torch.stack([tile.values_rc.amax(dim=1) for tile in tiles.of(rows)]).amax(dim=0)
        for tile in tiles.of(rows):
            counts_N[tile.columns] += (tile.values_rc == best_r[:, None]).any(dim=0)
    return sum_over_ranks(counts_N) > 0


def _whose_nearest_is_among(is_near_N: Tensor, tiles: Tiles, queries_QD: Tensor) -> Tensor:
    """Return a mask of the queries that have a nearest target in `is_near_N`."""
    found = [torch.empty(0, dtype=torch.bool, device=queries_QD.device)]
    for rows in tiles.rows():
        best, near = [], []
        for tile in tiles.of(rows):
            best.append(tile.values_rc.amax(dim=1))
            near.append(tile.values_rc.masked_fill_(~is_near_N[tile.columns], -torch.inf).amax(dim=1))
        found.append(torch.stack(best).amax(dim=0) == torch.stack(near).amax(dim=0))
    return torch.cat(found)


def _all(queries_QD: Tensor) -> Tensor:
    return torch.ones(len(queries_QD), dtype=torch.bool, device=queries_QD.device)


def _keep(tile: Tile) -> None:
    """Use cosines as scores."""


def _check_steepness(name: str, value: float) -> None:
    if not 0 < value <= STEEPEST:
        raise ValueError(f"{name}={value:g}: expected a number above 0 and at most {STEEPEST:g}")
