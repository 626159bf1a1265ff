"""The work of each rank in the tests of the engine: small runs, one after another, with a record of drawn samples.

python -m tests.pretrain.engine.jobs SHARDS '[{"run": "runs/a", "from": null, "changes": {"steps": 4}}]'
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.pretrain.processes import run_ranks

Drawn = list[dict[str, Any]]  # of each rank


@dataclass(frozen=True)
class Job:
    """A run, optionally started with the checkpoint of another; changes as in small_run."""

    run: Path
    begin_with: Path | None = None
    changes: dict[str, Any] = field(default_factory=dict)

    def encoded(self) -> dict[str, Any]:
        return {"run": str(self.run), "from": str(self.begin_with or ""), "changes": self.changes}


def run_jobs(shards: Path, jobs: Sequence[Job], ranks: int, threads: int = 1) -> list[Drawn]:
    """Run jobs on real ranks; return for each job the samples that each rank drew."""
    text = json.dumps([job.encoded() for job in jobs])
    outputs = run_ranks(["tests.pretrain.engine.jobs", str(shards), text], ranks, threads)
    of_rank = [json.loads(lines.splitlines()[-1]) for lines in outputs]
    return [list(of_job) for of_job in zip(*of_rank, strict=True)]


def _main(shards: Path, jobs: list[dict[str, Any]]) -> None:
    from tests.pretrain.engine.small_run import small_config
    from trichord.pretrain.engine import run as engine_run
    from trichord.pretrain.engine.device import Peak
    from trichord.pretrain.engine.distributed import join_world, leave_world
    from trichord.pretrain.engine.prefetch import Prefetcher
    from trichord.shards.reading.batch import Batch

    keys: list[str] = []
    draw = Prefetcher.__next__

    def draw_and_note(prefetcher: Prefetcher) -> Batch:
        batch = draw(prefetcher)
        keys.append(f"{batch.step}: {' '.join(batch.key)}")
        return batch

    Prefetcher.__next__ = draw_and_note  # type: ignore[method-assign]
    # Counting takes seconds at every start, for figures that these tests do not use.
    engine_run.training_flops = lambda *_: 0  # type: ignore[attr-defined,assignment]
    engine_run.peak_flops = lambda *_: Peak(1.0, "known", "none")  # type: ignore[attr-defined,assignment]
    rank, drawn = join_world().rank, []
    for job in jobs:
        run = Path(job["run"])
        if job["from"] and rank == 0:
            shutil.copytree(job["from"], run / "checkpoints" / Path(job["from"]).name)
        dist.barrier()
        keys.clear()
        engine_run.pretrain(small_config(shards, **job["changes"]), run)
        rng = int(torch.get_rng_state().long().sum())
        drawn.append(
            {"keys": list(keys), "rng": rng, "next": torch.rand(()).item(), "threads": torch.get_num_threads()}
        )
    print("\n" + json.dumps(drawn))
    leave_world()


if __name__ == "__main__":
    torch.set_num_threads(1)
    _main(Path(sys.argv[1]), json.loads(sys.argv[2]))
