"""The work of each rank that shares a test: ranks of its queries by every scoring, and figures of both directions."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor

from tests.pretrain.retrieval.naive import draw
from trichord.core.errors import UserError
from trichord.pretrain.retrieval.ranks import COSINE, measure, own_ranks
from trichord.pretrain.retrieval.scores import DualSoftmax, QueryBank, Side

KINDS = ("random", "twins")
# The share of captions, videos and bank rows of each rank.
SHARES: dict[int, tuple[float, ...]] = {1: (1.0,), 2: (0.3, 0.7), 3: (0.5, 0.0, 0.5)}


def part(rows: Tensor, rank: int, ranks: int) -> Tensor:
    """Return the part of a rank of some rows, in order; the second of three ranks has none."""
    ends = [round(len(rows) * sum(SHARES[ranks][:each])) for each in (rank, rank + 1)]
    return rows[ends[0] : ends[1]]


def find(rank: int, ranks: int) -> dict[str, object]:
    """Rank the queries of this rank in both directions, measure, and pass invalid rows on the last rank alone."""
    found: dict[str, object] = {}
    for kind in KINDS:
        captions, videos, text_bank, video_bank = draw(kind)
        mine = {
            name: Side(part(side.rows_nD, rank, ranks), part(side.clips_n, rank, ranks))
            for name, side in (("text", captions), ("video", videos))
        }
        banks = {"text": part(text_bank, rank, ranks), "video": part(video_bank, rank, ranks)}
        for asks, gives in (("text", "video"), ("video", "text")):
            for number, scoring in enumerate((COSINE, DualSoftmax(), QueryBank(banks[asks]))):
                for among in ("rows", "clips"):
                    ranks_Q = own_ranks(mine[asks], mine[gives], scoring, among, 3000)  # type: ignore[arg-type]
                    found[f"{kind} {asks} {number} {among}"] = ranks_Q
        found[f"{kind} figures"] = measure(mine, banks=banks, memory_bytes=3000)
    broken = mine["video"].rows_nD * (torch.nan if rank == ranks - 1 else 1)
    try:
        own_ranks(mine["text"], Side(broken, mine["video"].clips_n))
    except UserError as stop:
        found["stopped"] = str(stop)
    return found


def take_part(rank: int, ranks: int, folder: str) -> None:
    """Save the results of this rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet{ranks}", rank=rank, world_size=ranks)
    torch.save(find(rank, ranks), f"{folder}/{ranks}-{rank}")
    dist.destroy_process_group()


if __name__ == "__main__":
    # Forked from one process, because most of the time of a short rank is importing torch.
    for world in SHARES:
        if world > 1:
            torch.multiprocessing.start_processes(take_part, (world, sys.argv[1]), nprocs=world, start_method="fork")
