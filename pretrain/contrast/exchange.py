"""Exchange of rows between ranks, and their products with this rank's rows, one tile at a time.

Rows are gathered all at once, or travel one block at a time around a ring, the neighbour exchange of SigLIP (Zhai et
al. 2023, section 3.3). Autograd is not involved: the sums for a block travel with it, so a rank holds at most two
foreign blocks, one in use and one in transit. Products of many rows with many others are computed tile by tile in one
buffer, and the gradients from each tile. Before, ranks exchange how many pairs each has, and the lowest cosine of any.
Legend: W ranks, b samples of this rank, p its present rows, c the largest number of rows of any rank, n the rows of a
block, N those of all ranks, D features, X any trailing dimensions; of a tile, r rows and c columns.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from trichord.pretrain.collectives import gather_rows, rank, world_size

Form = Literal["gathered", "ring"]


@dataclass(frozen=True)
class RowBlock:
    """Rows of the other side that this rank processes together."""

    rows_nD: Tensor
    notes_n: Tensor | None  # one value per row, sent along by the row's owner
    sums_nX: Tensor  # this rank adds to it; each owner receives the sum over all ranks
    own_at: int | None  # index of this rank's first row, if the block contains its rows


Visit = Callable[[RowBlock], None]


class Exchange(ABC):
    """Exchange that shows a rank the rows of all ranks and returns the sums they added for its own rows."""

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts = tuple(counts)

    @property
    def total(self) -> int:
        """The number of rows of all ranks."""
        return sum(self.counts)

    @abstractmethod
    def hold(self, rows_pX: Tensor) -> Tensor:
        """Return this rank's rows in the form `tour` takes; keep it as long as another tour may follow."""

    @abstractmethod
    def tour(self, held: Tensor, notes_p: Tensor | None, sums_pX: Tensor, visit: Visit) -> Tensor:
        """Call `visit` on all rows and return `sums_pX` (zeros on input) plus what all ranks added."""

    def _padded(self, rows_pX: Tensor) -> Tensor:
        """Append zeros up to the largest row count of any rank, because messages have one size."""
        missing = max(self.counts) - len(rows_pX)
        return torch.cat((rows_pX, rows_pX.new_zeros(missing, *rows_pX.shape[1:]))) if missing else rows_pX


class GatheredExchange(Exchange):
    """All rows at once: one message in each direction, and memory for all ranks' rows."""

    def hold(self, rows_pX: Tensor) -> Tensor:
        gathered_WcX = gather_rows(self._padded(rows_pX))
        if len(set(self.counts)) == 1:
            return gathered_WcX
        blocks = gathered_WcX.split(max(self.counts))
        return torch.cat([block[:count] for block, count in zip(blocks, self.counts, strict=True)])

    def tour(self, held: Tensor, notes_p: Tensor | None, sums_pX: Tensor, visit: Visit) -> Tensor:
        notes_N = None if notes_p is None else self.hold(notes_p)
        sums_NX = sums_pX if world_size() == 1 else sums_pX.new_zeros(self.total, *sums_pX.shape[1:])
        visit(RowBlock(held, notes_N, sums_NX, sum(self.counts[: rank()])))
        return sums_pX if world_size() == 1 else self._scatter(sums_NX, sums_pX)

    def _scatter(self, sums_NX: Tensor, sums_pX: Tensor) -> Tensor:
        blocks = sums_NX.split(self.counts)
        own_cX = self._padded(sums_pX)
        is_even = len(set(self.counts)) == 1
        dist.reduce_scatter_single(own_cX, sums_NX if is_even else torch.cat([self._padded(each) for each in blocks]))
        return own_cX[: len(sums_pX)]


class RingExchange(Exchange):
    """One rank's rows at a time: as many messages as ranks, and memory for two ranks' rows."""

    def hold(self, rows_pX: Tensor) -> Tensor:
        return self._padded(rows_pX)

    def tour(self, held: Tensor, notes_p: Tensor | None, sums_pX: Tensor, visit: Visit) -> Tensor:
        sums_cX = self._padded(sums_pX)
        current = [held] if notes_p is None else [held, self._padded(notes_p)]
        for hop in range(world_size()):
            owner = (rank() - hop) % world_size()
            count = self.counts[owner]
            is_last = hop == world_size() - 1
            passage = None if is_last else _Passage(current)  # overlaps the next transfer with this block's work
            rows_nD, *notes = [each[:count] for each in current]
            visit(RowBlock(rows_nD, notes[0] if notes else None, sums_cX[:count], None if hop else 0))
            del rows_nD, notes
            if passage is not None:
                current = passage.finish()
            if world_size() > 1:
                (sums_cX,) = _Passage([sums_cX]).finish()  # after the last visit it is back at its owner
        return sums_cX[: len(sums_pX)]


class _Passage:
    """A transfer: tensors sent to the next rank, and those received from the previous rank."""

    def __init__(self, sent: Sequence[Tensor]) -> None:
        self._sent = [tensor.contiguous() for tensor in sent]
        self._received = [torch.empty_like(tensor) for tensor in self._sent]
        to, of = (rank() + 1) % world_size(), (rank() - 1) % world_size()
        # All are posted together: if every rank sent first, all would wait for each other.
        self._works = dist.batch_isend_irecv(
            [dist.P2POp(dist.isend, tensor, to) for tensor in self._sent]
            + [dist.P2POp(dist.irecv, tensor, of) for tensor in self._received]
        )

    def finish(self) -> list[Tensor]:
        """Wait for all transfers, release the sent tensors and return the received ones."""
        for work in self._works:
            work.wait()
        self._works, self._sent = [], []
        return self._received


FORMS: dict[Form, type[Exchange]] = {"gathered": GatheredExchange, "ring": RingExchange}


# Size of one tile; two are held. On the CPU it should stay in the cache, on a GPU it should fill the device.
CPU_TILE_BYTES, GPU_TILE_BYTES = 4 << 20, 64 << 20


class DiagonalSegment(NamedTuple):
    """Positions on a diagonal: (row, column), (row + 1, column + 1) and so on, as indices of this rank's rows."""

    row: int
    column: int
    length: int


class ProductTile(NamedTuple):
    """Cosines of some of this rank's rows with some of a block's; they are changed in place."""

    rows: slice
    columns: slice
    values_rc: Tensor
    spare_rc: Tensor  # of the same shape, for temporary results
    others_cD: Tensor  # the block's rows of this tile, in the dtype of the product
    own_at: int | None  # index of this rank's first row in the block, if it contains them

    def along(self, segment: DiagonalSegment) -> Tensor:
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


class ProductTiles:
    """This rank's rows, multiplied with those of any block in dtype `products` and summed in dtype `sums`."""

    def __init__(self, rows_pD: Tensor, products: torch.dtype, sums: torch.dtype, tile_bytes: int | None) -> None:
        self.rows_pD = rows_pD.to(products)
        self._sums = sums
        default = GPU_TILE_BYTES if rows_pD.is_cuda else CPU_TILE_BYTES
        self._most = max(1, (tile_bytes or default) // sums.itemsize)

    def of(self, block: RowBlock) -> Iterator[ProductTile]:
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
                yield ProductTile(own, other, values_rc, spare_rc, others_nD[other], block.own_at)

    def pull(self, tile: ProductTile, block: RowBlock, grad_pD: Tensor) -> None:
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


class PresentPairs(NamedTuple):
    """This rank's present pairs, and figures that all ranks share."""

    a_pD: Tensor
    b_pD: Tensor
    pairs: tuple[int, ...]  # of each rank
    lowest_cosine: float  # of any present pair, on any rank
    scale: float


def present_pairs(a_bD: Tensor, b_bD: Tensor, scale: Tensor, present_b: Tensor | None) -> PresentPairs:
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
    return PresentPairs(a_pD, b_pD, pairs, min(each[1] for each in figures), figures[0][2])


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype of matrix products: autocast's if it is enabled, otherwise the tensor's."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype
