"""The work of each rank that shares a batch: every loss in either form, and the number of foreign blocks held."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor

from tests.pretrain.contrast.naive import LOSSES, draw, loss_and_gradients
from trichord.pretrain.contrast import exchange

WORLDS = (2, 3, 4)
SAMPLES = 5  # of each rank
# Which samples are present, by case: all, some on each rank, none on the first rank, one in total, none.
CASES = ("all", "some", "not_first", "one", "none")


def presence(case: str, ranks: int) -> Tensor:
    """Return which samples of the global batch are present."""
    sample_N = torch.arange(ranks * SAMPLES)
    kept = {
        "all": sample_N >= 0,
        "some": sample_N % 7 % 3 != 0,
        "not_first": sample_N >= SAMPLES,
        "one": sample_N == 6,
        "none": sample_N < 0,
    }
    return kept[case]


@contextmanager
def counting_blocks(most: list[int]) -> Iterator[None]:
    """Record after each exchange how many tensors from other ranks are alive."""
    alive: list[weakref.ref[Tensor]] = []
    before = exchange._Passage.__init__

    def noting(self: exchange._Passage, sent: list[Tensor]) -> None:
        before(self, sent)
        alive.extend(weakref.ref(tensor) for tensor in self._received if tensor.dim() == 2)
        most.append(sum(reference() is not None for reference in alive))

    exchange._Passage.__init__ = noting  # type: ignore[method-assign]
    try:
        yield
    finally:
        exchange._Passage.__init__ = before  # type: ignore[method-assign]


def take_part(rank: int, ranks: int, folder: str) -> None:
    """Save the results of this rank, and how many foreign blocks it held, in forward only and with backward."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet{ranks}", rank=rank, world_size=ranks)
    own = slice(rank * SAMPLES, (rank + 1) * SAMPLES)
    found: dict[str, list[Tensor]] = {}
    most: dict[str, tuple[int, int]] = {}
    for name, loss in LOSSES.items():
        a, b, *numbers = draw(name, ranks * SAMPLES, dtype=torch.float64)
        given = [a.detach()[own].requires_grad_(), b.detach()[own].requires_grad_(), *numbers]
        for form in ("gathered", "ring"):
            forward, both = [0], [0]
            for case in CASES:
                present_b = None if case == "all" else presence(case, ranks)[own]
                with counting_blocks(forward), torch.no_grad():
                    loss(*given, present_b, form=form, tile_bytes=64)
                with counting_blocks(both):
                    value = loss(*given, present_b, form=form, tile_bytes=64)
                    found[f"{name} {form} {case}"] = loss_and_gradients(3.0 * value, given)
            most[f"{name} {form}"] = (max(forward), max(both))
    torch.save({"found": found, "most": most}, f"{folder}/{ranks}-{rank}")
    dist.destroy_process_group()


def main(folder: str) -> None:
    """Run worlds of several sizes, forked from one process: a short rank mostly imports torch."""
    torch.set_num_threads(1)
    for ranks in WORLDS:
        torch.multiprocessing.start_processes(take_part, (ranks, folder), nprocs=ranks, start_method="fork")


if __name__ == "__main__":
    main(*sys.argv[1:])
