"""Exchange of rows between ranks: all gathered at once, or one block at a time around a ring.

The ring is the neighbour exchange of SigLIP (Zhai et al. 2023, section 3.3). Autograd is not involved: the sums for a
block travel with it, so a rank holds at most two foreign blocks, one in use and one in transit.
Legend: W ranks, p this rank's rows, c the largest number of rows of any rank, n the rows of a block, N those of all
ranks, D features, X any trailing dimensions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from trichord.pretrain.collectives import gather_rows, rank, world_size

Form = Literal["gathered", "ring"]


@dataclass(frozen=True)
class Block:
    """Rows of the other side that this rank processes together."""

    rows_nD: Tensor
    notes_n: Tensor | None  # one value per row, sent along by the row's owner
    sums_nX: Tensor  # this rank adds to it; each owner receives the sum over all ranks
    own_at: int | None  # index of this rank's first row, if the block contains its rows


Visit = Callable[[Block], None]


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


class Gathered(Exchange):
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
        visit(Block(held, notes_N, sums_NX, sum(self.counts[: rank()])))
        return sums_pX if world_size() == 1 else self._scatter(sums_NX, sums_pX)

    def _scatter(self, sums_NX: Tensor, sums_pX: Tensor) -> Tensor:
        blocks = sums_NX.split(self.counts)
        own_cX = self._padded(sums_pX)
        is_even = len(set(self.counts)) == 1
        dist.reduce_scatter_single(own_cX, sums_NX if is_even else torch.cat([self._padded(each) for each in blocks]))
        return own_cX[: len(sums_pX)]


class Ring(Exchange):
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
            visit(Block(rows_nD, notes[0] if notes else None, sums_cX[:count], None if hop else 0))
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


FORMS: dict[Form, type[Exchange]] = {"gathered": Gathered, "ring": Ring}
