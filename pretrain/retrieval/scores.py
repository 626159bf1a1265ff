"""The two sides of a retrieval, their cosines, and the scores by which targets are ranked.

Sides are unit rows with clip numbers. Their cosines are computed tile by tile in one buffer. Products are summed in
float64 and rounded to 32 binary digits, so that equal rows have equal cosines: ties then do not depend on a library's
order of summation, and hence not on the shape of tiles or the number of processes. Float32 has 24 digits, too few if a
network collapses and all cosines are nearly 1, and its rounding errors are larger.
Scores are cosines, or one of two corrections of cosines for hubs, targets that are near to most queries. Both
corrections weight a query's cosines by those of other queries with the same targets, so their figures are reported
separately: the dual softmax uses the other queries of the test, which are not available for a single query; the query
bank uses training queries instead. With s the cosines of queries q with targets t:
- Dual softmax at inference (Cheng et al. 2021, arXiv 2109.04290): s_qt softmax_q(a s_qt), the softmax over queries.
- Dynamic inverted softmax of QB-Norm (Bogolin et al. 2022, arXiv 2112.12777): exp(b s_qt) / sum_k exp(b s_kt) over a
  bank's queries k, for those q whose nearest target is the nearest of some k; others keep their cosines.
Of targets that tie for nearest, each counts as nearest, so that the result does not depend on their order.
Legend: Q queries of this process, N targets or rows of all processes, K rows of this process's part of a bank, r and c
those of a tile, n rows of this process, D features.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from trichord.core.errors import UserError
from trichord.pretrain.collectives import gather_unequal_rows, sum_over_ranks

MEMORY_BYTES = 256 << 20
# Two float64 tiles and one boolean tile.
_BYTES_PER_COSINE = 17
_DIGITS = 32
_ROUNDED_BITS = 53 - _DIGITS  # the last bits of a float64


class ScoreTile(NamedTuple):
    """Cosines of some queries with some targets, which may be modified in place."""

    rows: slice
    columns: slice
    values_rc: Tensor
    spare_rc: Tensor  # a scratch buffer of the same shape


class ScoreTiles:
    """Products of this process's queries and all targets within `memory_bytes`, not counting the rows themselves.

    The columns of a tile end at one of `borders`, the ends of groups of targets that must not be split.
    """

    def __init__(
        self, queries_QD: Tensor, targets_ND: Tensor, memory_bytes: int, borders: Sequence[int] | None = None
    ) -> None:
        self._queries_QD, self._targets_ND = queries_QD, targets_ND
        row_bytes = 8 * queries_QD.shape[1]  # in float64
        most = int((math.hypot(row_bytes, math.sqrt(_BYTES_PER_COSINE * memory_bytes)) - row_bytes) / _BYTES_PER_COSINE)
        self._height = max(1, min(len(queries_QD), most))
        width = max(1, _fitting(memory_bytes, row_bytes, self._height))
        self._columns = _cut(len(targets_ND), width, borders)
        widest = max((each.stop - each.start for each in self._columns), default=1)
        # Groups are not split, so the number of queries per tile decreases instead.
        self._height = max(1, min(len(queries_QD), _fitting(memory_bytes, row_bytes, widest)))
        self._held, self._spare = (queries_QD.new_empty(self._height * widest, dtype=torch.float64) for _ in range(2))

    def rows(self) -> Iterator[slice]:
        """Yield slices of queries that are processed together."""
        for first in range(0, len(self._queries_QD), self._height):
            yield slice(first, min(first + self._height, len(self._queries_QD)))

    def of(self, rows: slice, near: tuple[int, int] | None = None) -> Iterator[ScoreTile]:
        """Yield tiles of their cosines with all targets, or only the tiles that overlap `near` (start and stop)."""
        queries_rD = self._queries_QD[rows].double()
        for columns in self._columns:
            if near and (columns.stop <= near[0] or columns.start >= near[1]):
                continue
            shape = (len(queries_rD), columns.stop - columns.start)
            values_rc, spare_rc = (each[: math.prod(shape)].view(shape) for each in (self._held, self._spare))
            torch.mm(queries_rD, self._targets_ND[columns].double().T, out=values_rc)
            yield ScoreTile(rows, columns, round_digits(values_rc), spare_rc)


def round_digits(values: Tensor) -> Tensor:
    """Round float64 values in place to 32 significant binary digits; halves away from zero."""
    bits = values.view(torch.int64)
    bits.add_(1 << (_ROUNDED_BITS - 1)).bitwise_and_(-1 << _ROUNDED_BITS)
    return values


def _fitting(memory_bytes: int, row_bytes: int, rows: int) -> int:
    """Return how many rows of the other side fit into memory with `rows` of one side."""
    return (memory_bytes - row_bytes * rows) // (_BYTES_PER_COSINE * rows + row_bytes)


def _cut(count: int, width: int, borders: Sequence[int] | None) -> list[slice]:
    """Cut columns into slices of `width`; with borders, narrower or wider so that they end at a border."""
    if borders is None:
        return [slice(first, min(first + width, count)) for first in range(0, count, width)]
    slices: list[slice] = []
    first = last = 0
    for border in borders:
        if border - first > width and last > first:
            slices.append(slice(first, last))
            first = last
        last = border
    return [*slices, slice(first, last)] if last > first else slices


MISSING = -1
LONGEST_ERROR = 0.01  # of a row's length; rows in bfloat16 have a smaller error


@dataclass(frozen=True)
class Side:
    """The rows of this process and the clip number of each; numbers are global over all processes.

    A clip may have no row or several. A row of clip MISSING is ignored as a query and as a target, for example an
    absent caption in a dense table, or padding of a process's last batch.
    """

    rows_nD: Tensor
    clips_n: Tensor

    def __post_init__(self) -> None:
        rows, clips = self.rows_nD, self.clips_n
        if rows.dim() != 2 or clips.shape != rows.shape[:1] or clips.device != rows.device:
            raise ValueError(
                f"expected as many clip numbers as rows, on one device, found {tuple(rows.shape)} on {rows.device} "
                f"and {tuple(clips.shape)} on {clips.device}"
            )

    def __len__(self) -> int:
        return len(self.rows_nD)

    def where(self, chosen_n: Tensor) -> Side:
        """Return the chosen rows, in the given order."""
        return Side(self.rows_nD[chosen_n], self.clips_n[chosen_n])

    def check(self, name: str) -> None:
        """Raise on all processes if any row is not a unit vector; a NaN target would always rank first."""
        length_n = torch.linalg.vector_norm(self.rows_nD, dim=1, dtype=torch.float64)
        is_bad_n = ~((length_n - 1).abs() <= LONGEST_ERROR) & (self.clips_n >= 0)
        bad, there = sum_over_ranks(torch.stack([is_bad_n.sum(), (self.clips_n >= 0).sum()])).tolist()
        if not there:
            raise UserError(f"retrieval: found no rows of {name} in any process; expected at least one")
        if bad:
            raise UserError(
                f"retrieval: expected rows of {name} with length 1, found {bad:,} of {there:,} with another length. "
                f"Normalise them and set the clip of padding rows to {MISSING}. If values are not finite, the network "
                "diverged: use an earlier checkpoint"
            )

    def gathered(self) -> Side:
        """Gather the rows of all processes without missing ones, sorted by clip number."""
        there = self.where(self.clips_n >= 0)
        clips_N = gather_unequal_rows(there.clips_n)
        return Side(gather_unequal_rows(there.rows_nD), clips_N).where(clips_N.argsort(stable=True))


SCALE, BETA = 100.0, 20.0
STEEPEST = 300.0  # exp(-2 * 300) is still a number in float64

Conversion = Callable[[ScoreTile], None]  # converts a tile's cosines to scores in place


class Scoring(ABC):
    """A scoring method; `name` is part of the names of its figures and empty for cosines."""

    name: str

    @abstractmethod
    def conversions(self, queries_QD: Tensor, targets_ND: Tensor, memory_bytes: int) -> list[tuple[Tensor, Conversion]]:
        """Return pairs of query mask and conversion; each query is in one mask. All processes must call it."""


class CosineScoring(Scoring):
    """Cosines without a correction."""

    name = ""

    def conversions(self, queries_QD: Tensor, targets_ND: Tensor, memory_bytes: int) -> list[tuple[Tensor, Conversion]]:
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

    def conversions(self, queries_QD: Tensor, targets_ND: Tensor, memory_bytes: int) -> list[tuple[Tensor, Conversion]]:
        sums_N = _sums_of_exponentials(ScoreTiles(queries_QD, targets_ND, memory_bytes), targets_ND, self.scale)

        def weigh(tile: ScoreTile) -> None:
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

    def conversions(self, queries_QD: Tensor, targets_ND: Tensor, memory_bytes: int) -> list[tuple[Tensor, Conversion]]:
        Side(self.rows_KD, torch.zeros_like(self.rows_KD[:, 0], dtype=torch.long)).check("the query bank")
        bank = ScoreTiles(self.rows_KD, targets_ND, memory_bytes)
        sums_N = _sums_of_exponentials(bank, targets_ND, self.beta)
        is_near_N = _nearest_of_some(bank, targets_ND)
        del bank  # free the buffers of its tiles before allocating the next
        is_corrected_Q = _whose_nearest_is_among(
            is_near_N, ScoreTiles(queries_QD, targets_ND, memory_bytes), queries_QD
        )

        def invert(tile: ScoreTile) -> None:
            round_digits(tile.values_rc.sub_(1).mul_(self.beta).exp_().div_(sums_N[tile.columns]))

        return [(is_corrected_Q, invert), (~is_corrected_Q, _keep)]


def _sums_of_exponentials(tiles: ScoreTiles, targets_ND: Tensor, steepness: float) -> Tensor:
    """Sum exp(steepness * (s - 1)) over the queries of all processes for each target; the 1 cancels in a softmax."""
    sums_N = targets_ND.new_zeros(len(targets_ND), dtype=torch.float64)
    for rows in tiles.rows():
        for tile in tiles.of(rows):
            sums_N[tile.columns] += tile.values_rc.sub_(1).mul_(steepness).exp_().sum(dim=0)
    return sum_over_ranks(sums_N)


def _nearest_of_some(tiles: ScoreTiles, targets_ND: Tensor) -> Tensor:
    """Return a mask of the targets that are nearest to at least one query of any process."""
    counts_N = targets_ND.new_zeros(len(targets_ND), dtype=torch.int32)
    for rows in tiles.rows():
        best_r = torch.stack([tile.values_rc.amax(dim=1) for tile in tiles.of(rows)]).amax(dim=0)
        for tile in tiles.of(rows):
            counts_N[tile.columns] += (tile.values_rc == best_r[:, None]).any(dim=0)
    return sum_over_ranks(counts_N) > 0


def _whose_nearest_is_among(is_near_N: Tensor, tiles: ScoreTiles, queries_QD: Tensor) -> Tensor:
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


def _keep(tile: ScoreTile) -> None:
    """Use cosines as scores."""


def _check_steepness(name: str, value: float) -> None:
    if not 0 < value <= STEEPEST:
        raise ValueError(f"{name}={value:g}: expected a number above 0 and at most {STEEPEST:g}")
