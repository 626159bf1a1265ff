"""The two sides of a retrieval, unit rows with clip numbers, and their cosines, computed tile by tile in one buffer.

Products are summed in float64 and rounded to 32 binary digits, so that equal rows have equal cosines: ties then do not
depend on a library's order of summation, and hence not on the shape of tiles or the number of processes. Float32 has 24
digits, too few if a network collapses and all cosines are nearly 1, and its rounding errors are larger.
Legend: Q queries of this process, N targets or rows of all processes, r and c those of a tile, n rows of this process,
D features.
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
# Two float64 tiles and one boolean tile.
_BYTES_PER_COSINE = 17
_DIGITS = 32
_ROUNDED_BITS = 53 - _DIGITS  # the last bits of a float64


class Tile(NamedTuple):
    """Cosines of some queries with some targets, which may be modified in place."""

    rows: slice
    columns: slice
    values_rc: Tensor
    spare_rc: Tensor  # a scratch buffer of the same shape


class Tiles:
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

    def of(self, rows: slice, near: tuple[int, int] | None = None) -> Iterator[Tile]:
        """Yield tiles of their cosines with all targets, or only the tiles that overlap `near` (start and stop)."""
        queries_rD = self._queries_QD[rows].double()
        for columns in self._columns:
            if near and (columns.stop <= near[0] or columns.start >= near[1]):
                continue
            shape = (len(queries_rD), columns.stop - columns.start)
            values_rc, spare_rc = (each[: math.prod(shape)].view(shape) for each in (self._held, self._spare))
            torch.mm(queries_rD, self._targets_ND[columns].double().T, out=values_rc)
            yield Tile(rows, columns, round_digits(values_rc), spare_rc)


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
