"""Products of many rows with many others, one tile at a time in one buffer, and the gradients from each tile.

Also the exchange before ranks compare rows: how many pairs each rank has, and the lowest cosine of any pair.
Legend: b samples of this rank, p its present rows, n the rows of a block, r and c those of a tile, D features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from trichord.pretrain.collectives import gather_rows, world_size
from trichord.pretrain.contrast.exchange import Block

# Size of one tile; two are held. On the CPU it should stay in the cache, on a GPU it should fill the device.
CPU_TILE_BYTES, GPU_TILE_BYTES = 4 << 20, 64 << 20


class Segment(NamedTuple):
    """Positions on a diagonal: (row, column), (row + 1, column + 1) and so on, as indices of this rank's rows."""

    row: int
    column: int
    length: int


class Tile(NamedTuple):
    """Cosines of some of this rank's rows with some of a block's; they are changed in place."""

    rows: slice
    columns: slice
    values_rc: Tensor
    spare_rc: Tensor  # of the same shape, for temporary results
    others_cD: Tensor  # the block's rows of this tile, in the dtype of the product
    own_at: int | None  # index of this rank's first row in the block, if it contains them

    def along(self, segment: Segment) -> Tensor:
        """Return a view of the values that lie on a segment."""
        if self.own_at is None:
            return self.values_rc.new_empty(0)
        shift = segment.column + self.own_at - segment.row
        first = max(self.rows.start, segment.row, self.columns.start - shift)
        last = min(self.rows.stop, segment.row + segment.length, self.columns.stop - shift)
        if last <= first:
            return self.values_rc.new_empty(0)
        row, column = first - self.rows.start, first + shift - self.columns.start
        return self.values_rc[row:, column:].diagonal()[: last - first]


class Tiles:
    """This rank's rows, multiplied with those of any block in dtype `products` and summed in dtype `sums`."""

    def __init__(self, rows_pD: Tensor, products: torch.dtype, sums: torch.dtype, tile_bytes: int | None) -> None:
        self.rows_pD = rows_pD.to(products)
        self._sums = sums
        default = GPU_TILE_BYTES if rows_pD.is_cuda else CPU_TILE_BYTES
        self._most = max(1, (tile_bytes or default) // sums.itemsize)

    def of(self, block: Block) -> Iterator[Tile]:
        """Yield every tile with the block's rows; each overwrites the previous one."""
        rows, columns = len(self.rows_pD), len(block.rows_nD)
        if not rows or not columns:
            return
        # As close to a square as possible, because a square reads the fewest rows for its size.
        width = min(columns, max(math.isqrt(self._most), self._most // rows))
        height = min(rows, max(1, self._most // width))
        held, spare = (self.rows_pD.new_empty(height * width, dtype=self._sums) for _ in range(2))
        others_nD = block.rows_nD.to(self.rows_pD.dtype)
        for row in range(0, rows, height):
            own = slice(row, min(row + height, rows))
            for column in range(0, columns, width):
                other = slice(column, min(column + width, columns))
                shape = (own.stop - own.start, other.stop - other.start)
                values_rc, spare_rc = (each[: math.prod(shape)].view(shape) for each in (held, spare))
                _multiply(self.rows_pD[own], others_nD[other], values_rc)
                yield Tile(own, other, values_rc, spare_rc, others_nD[other], block.own_at)

    def pull(self, tile: Tile, block: Block, grad_pD: Tensor) -> None:
        """Add the gradients of both sides' rows that follow from a tile of gradients of cosines."""
        values_rc = tile.values_rc.to(self.rows_pD.dtype)
        _accumulate(grad_pD[tile.rows], values_rc, tile.others_cD)
        _accumulate(block.sums_nX[tile.columns], values_rc.T, self.rows_pD[tile.rows])


def _multiply(rows_rD: Tensor, others_cD: Tensor, out_rc: Tensor) -> None:
    if out_rc.dtype == rows_rD.dtype:
        torch.mm(rows_rD, others_cD.T, out=out_rc)
    else:
        out_rc.copy_(rows_rD @ others_cD.T)


def _accumulate(sum_xD: Tensor, values_xy: Tensor, rows_yD: Tensor) -> None:
    if sum_xD.dtype == rows_yD.dtype:
        sum_xD.addmm_(values_xy, rows_yD)
    else:
        sum_xD += values_xy @ rows_yD


def dot_rows(one_pD: Tensor, other_pD: Tensor) -> Tensor:
    """Return the dot product of each pair of rows; matrix products avoid a third tensor of the rows' size."""
    return (one_pD.unsqueeze(1) @ other_pD.unsqueeze(2)).view(-1)


def refuse_second_order() -> None:
    """Raise RuntimeError if a graph of the backward pass is requested: there is none, it would count as constant."""
    if torch.is_grad_enabled():
        raise RuntimeError("create_graph=True: these losses have first derivatives only. Leave it out.")


class Meeting(NamedTuple):
    """This rank's present pairs, and figures that all ranks share."""

    a_pD: Tensor
    b_pD: Tensor
    pairs: tuple[int, ...]  # of each rank
    lowest_cosine: float  # of any present pair, on any rank
    scale: float


def meet(a_bD: Tensor, b_bD: Tensor, scale: Tensor, present_b: Tensor | None) -> Meeting:
    """Drop absent pairs, whatever their rows hold, and exchange figures of the present ones with all ranks."""
    if a_bD.shape != b_bD.shape or a_bD.dim() != 2 or scale.numel() != 1:
        raise ValueError(
            f"expected two tensors of the same shape BD and a scale of one element, found {tuple(a_bD.shape)}, "
            f"{tuple(b_bD.shape)} and {tuple(scale.shape)}"
        )
    exact = torch.promote_types(a_bD.dtype, torch.float32)
    a_pD, b_pD = a_bD.to(exact), b_bD.to(exact)
    if present_b is not None and not bool(present_b.all()):
        present_p = present_b.nonzero().squeeze(1)
        a_pD, b_pD = a_pD[present_p], b_pD[present_p]
    with torch.no_grad():
        cosine_p = dot_rows(a_pD, b_pD)
        lowest = cosine_p.min() if len(cosine_p) else cosine_p.new_ones(())
        own_13 = torch.stack([lowest.new_tensor(len(a_pD)), lowest, scale.detach().reshape(()).to(lowest)])[None]
        figures = gather_rows(own_13.double()).tolist()
    # A single rank takes its number of pairs from the shape, which a rehearsal on fake tensors has as well.
    pairs = (len(a_pD),) if world_size() == 1 else tuple(round(each[0]) for each in figures)
    return Meeting(a_pD, b_pD, pairs, min(each[1] for each in figures), figures[0][2])
