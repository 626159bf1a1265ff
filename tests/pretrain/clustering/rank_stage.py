"""The work of one rank with its share of rows; run as a program, once for each rank.

Usage: rank_stage.py FOLDER SEED, where FOLDER may have saved states of other world sizes to load.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.pretrain.clustering.row_stage import blobs
from trichord.pretrain.clustering.bank import Labelled, LabelTable, MemoryBank
from trichord.pretrain.clustering.health import health
from trichord.pretrain.clustering.lloyd import ClusteringStopped, cluster
from trichord.pretrain.clustering.rows import TensorRows, sweep
from trichord.pretrain.collectives import gather_unequal_rows, rank, world_size

CLUSTERS, BATCH, BANK_STEPS, STEPS = 7, 12, 3, 5
COUNTS = {1: (1600,), 2: (1100, 500), 3: (1100, 0, 500)}  # rows of each rank


def work(folder: Path, seed: int) -> dict[str, Any]:
    """Do everything once with the rows of a seed, and return the results."""
    rows_ND, truths_N = blobs(1600, 16, 12, noise=0.7, seed=seed)
    share = COUNTS[world_size()]
    part = slice(sum(share[: rank()]), sum(share[: rank() + 1]))
    mine, truths = rows_ND.half()[part], truths_N[part]
    cold = cluster(TensorRows(mine), CLUSTERS, iterations=8)
    bad_start_KD = cold.centroids_KD[[0, 0, 0, 1, 2, 3, 4]]
    warm = cluster(TensorRows(mine), CLUSTERS, start_KD=bad_start_KD, iterations=8, giant=2.0)
    figures = health(warm.labels_N, CLUSTERS, before_N=cold.labels_N, truths={"centre": truths})
    found = {"cold": vars(cold), "warm": vars(warm), "health": figures, "stopped": stopped(mine)}
    drifted_KD = cold.centroids_KD * (1 + 1e-6 * rank())  # as on different processors, and worse
    found["drifted"] = sweep(TensorRows(mine), drifted_KD).squares_K
    found["gathered"] = gather_unequal_rows(torch.arange(part.start, part.stop)[::100, None])
    bank = filled_bank()
    found["bank"] = {"state": bank.state(), "held": held(bank), "table": tabled(bank)}
    for saved in sorted(folder.glob("state*.pt")):
        taken = MemoryBank(bank_rows(), {"video": 4, "audio": 3}, BATCH // world_size())
        taken.load_state(torch.load(saved, weights_only=True))
        found[saved.stem] = {"state": taken.state(), "held": held(taken)}
        push(taken, STEPS)
        found[saved.stem]["next"] = held(taken)
    return found


def stopped(mine: torch.Tensor) -> str:
    """Return the message of the error that constant rows cause."""
    try:
        cluster(TensorRows(torch.ones_like(mine[:, :1])), CLUSTERS)
    except ClusteringStopped as stop:
        return str(stop)
    return ""


def bank_rows() -> int:
    return BANK_STEPS * BATCH // world_size()


def filled_bank(steps: int = STEPS) -> MemoryBank:
    bank = MemoryBank(bank_rows(), {"video": 4, "audio": 3}, BATCH // world_size())
    for step in range(steps):
        push(bank, step)
    return bank


def push(bank: MemoryBank, step: int) -> None:
    """Push this rank's share of the global batch of a step, in two pieces; a few samples occur in every step."""
    size = BATCH // world_size()
    for half in range(2):
        first = rank() * size + half * size // 2
        of = torch.arange(first, first + size // 2)
        keys_b = torch.where(of % 4 == 0, of, 100 * step + of)
        video_bD = (torch.arange(4) + 10 * of[:, None] + 1000 * step) / 8192
        has_sound_b = (of + step) % 3 != 0
        audio_bD = torch.where(has_sound_b[:, None], video_bD[:, :3] + 0.5, torch.nan)
        present = {"video": torch.ones(len(of), dtype=torch.bool), "audio": has_sound_b}
        bank.push({"video": video_bD, "audio": audio_bD}, keys_b, present, of % 5)


def held(bank: MemoryBank) -> dict[str, Any]:
    """Return the contents of the bank on this rank."""
    return {
        name: {
            "rows": torch.cat([torch.empty(0, dim), *bank.rows(name).chunks()]),
            "keys": bank.keys(name),
            "ages": bank.ages(name),
            "truths": bank.truths(name),
        }
        for name, dim in (("video", 4), ("audio", 3))
    }


def tabled(bank: MemoryBank) -> dict[str, torch.Tensor]:
    """Return the labels of all keys when the label of a row is its age."""
    table = LabelTable()
    table.replace({name: Labelled(bank.keys(name), bank.ages(name), bank.ages(name)) for name in ("video", "audio")})
    restored = LabelTable()
    restored.load_state(table.state())
    return {name: restored.lookup(name, torch.arange(100 * STEPS)) for name in ("video", "audio")}


if __name__ == "__main__":
    dist.init_process_group("gloo")
    found = work(Path(sys.argv[1]), int(sys.argv[2]))
    torch.save(found, Path(sys.argv[1]) / f"world{world_size()}_rank{rank()}.pt")
    dist.destroy_process_group()
