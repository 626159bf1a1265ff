"""Cosines of queries with targets, a tile at a time in one place, and such that equal rows have equal cosines.

Products are summed in float64 and rounded to 32 binary digits: how a library orders its sums then decides no more
whether two targets are tied, so that neither the tiles' shape nor the number of ranks does. Float32 has 24 digits, too
few where a network collapses and all cosines are nearly 1, and its sums are off by more.
Legend: Q queries of this rank, N targets of all ranks, r and c those of a tile, D features.

One side of a retrieval: rows of unit length, and the clip that each is of.

Legend: n rows of this rank, N those of all ranks, D features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from trichord.core.errors import UserError
from trichord.pretrain.collectives import gather_unequal_rows, sum_over_ranks

MEMORY_BYTES = 256 << 20
# Two tiles in float64 and one of truths.
_BYTES_PER_COSINE = 17
_DIGITS = 32
_ROUNDED_BITS = 53 - _DIGITS  # at the end of a float64


class Tile(NamedTuple):
    """Cosines of some queries with some targets, to be worked on in place."""

    rows: slice
    columns: slice
    values_rc: Tensor
    spare_rc: Tensor  # of the same shape, for whatever comes up


class Tiles:
    """This rank's queries and all targets, to be multiplied within so much memory beside their rows.

    Columns of one tile end where one of `borders` is, the ends of stretches of targets that must not be parted.
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
        # What must not be parted comes first, and then fewer queries at a time.
        self._height = max(1, min(len(queries_QD), _fitting(memory_bytes, row_bytes, widest)))
        self._held, self._spare = (queries_QD.new_empty(self._height * widest, dtype=torch.float64) for _ in range(2))

    def rows(self) -> Iterator[slice]:
        """Give the queries that are worked on together."""
        for first in range(0, len(self._queries_QD), self._height):
            yield slice(first, min(first + self._height, len(self._queries_QD)))

    def of(self, rows: slice, near: tuple[int, int] | None = None) -> Iterator[Tile]:
        """Give their cosines with all targets, or with those `near`, from one to before another, and some more."""
        queries_rD = self._queries_QD[rows].double()
        for columns in self._columns:
            if near and (columns.stop <= near[0] or columns.start >= near[1]):
                continue
            shape = (len(queries_rD), columns.stop - columns.start)
            values_rc, spare_rc = (each[: math.prod(shape)].view(shape) for each in (self._held, self._spare))
            torch.mm(queries_rD, self._targets_ND[columns].double().T, out=values_rc)
            yield Tile(rows, columns, round_digits(values_rc), spare_rc)


def round_digits(values: Tensor) -> Tensor:
    """Round float64 in place to 32 binary digits, whatever their size; halves away from zero."""
    bits = values.view(torch.int64)
    bits.add_(1 << (_ROUNDED_BITS - 1)).bitwise_and_(-1 << _ROUNDED_BITS)
    return values


def _fitting(memory_bytes: int, row_bytes: int, rows: int) -> int:
    """Say with how many rows of the other side so many of one fit."""
    return (memory_bytes - row_bytes * rows) // (_BYTES_PER_COSINE * rows + row_bytes)


def _cut(count: int, width: int, borders: Sequence[int] | None) -> list[slice]:
    """Cut columns into slices of this width, or of less to end at a border, or of more to reach one."""
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
LONGEST_ERROR = 0.01  # of a length; rows in bfloat16 are off by less


@dataclass(frozen=True)
class Side:
    """This rank's rows, and the number of the clip that each is of, counted over all ranks.

    A clip may have several rows, and none. A row of MISSING is neither asked nor found, whatever it holds: a caption
    that a dense table has room for and a clip has not, or what pads a rank's last batch.
    """

    rows_nD: Tensor
    clips_n: Tensor

    def __post_init__(self) -> None:
        rows, clips = self.rows_nD, self.clips_n
        if rows.dim() != 2 or clips.shape != rows.shape[:1] or clips.device != rows.device:
            raise ValueError(
                f"expected rows and as many numbers of clips on one device, found {tuple(rows.shape)} on {rows.device} "
                f"and {tuple(clips.shape)} on {clips.device}"
            )

    def __len__(self) -> int:
        return len(self.rows_nD)

    def where(self, chosen_n: Tensor) -> Side:
        """Keep some rows, in the order that is asked for."""
        return Side(self.rows_nD[chosen_n], self.clips_n[chosen_n])

    def check(self, name: str) -> None:
        """Stop on all ranks together where a row is no unit vector: nothing is greater than NaN, so it would win."""
        length_n = torch.linalg.vector_norm(self.rows_nD, dim=1, dtype=torch.float64)
        is_bad_n = ~((length_n - 1).abs() <= LONGEST_ERROR) & (self.clips_n >= 0)
        bad, there = sum_over_ranks(torch.stack([is_bad_n.sum(), (self.clips_n >= 0).sum()])).tolist()
        if not there:
            raise UserError(f"retrieval: there are no rows of {name} on any rank, expected one at least.")
        if bad:
            raise UserError(
                f"retrieval: {bad:,} of {there:,} rows of {name} are not of length 1, so their products are no "
                f"cosines. Normalise them, give rows that are none the clip {MISSING}, and if some are not finite take "
                "an earlier checkpoint, for the network diverged."
            )

    def gathered(self) -> Side:
        """Give all ranks' rows but the missing ones, by the numbers of their clips."""
        there = self.where(self.clips_n >= 0)
        clips_N = gather_unequal_rows(there.clips_n)
        return Side(gather_unequal_rows(there.rows_nD), clips_N).where(clips_N.argsort(stable=True))
