"""What each rank of these tests runs: small runs with heads, one after another, each tested when it is done.

python -m tests.finetune.jobs '[{"run": "runs/a", "from": "", "shards": "shards", "changes": {"steps": 4}}]'
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pytest import MonkeyPatch

from tests.pretrain.processes import run_ranks


@dataclass(frozen=True)
class Job:
    """A run, perhaps begun with another's checkpoint; changes as small_config takes them."""

    run: str
    shards: str
    begin_with: str = ""
    task: str = "classes"
    changes: dict[str, Any] = field(default_factory=dict)


def run_jobs(jobs: list[Job], ranks: int) -> list[dict[str, Any]]:
    """Run jobs on real ranks; give what the first of them found when it tested each run."""
    text = json.dumps([asdict(job) for job in jobs])
    told = run_ranks([sys.executable, "-m", "tests.finetune.jobs", text], ranks, timeout_s=300)
    found: list[dict[str, Any]] = json.loads(told[0].splitlines()[-1])
    return found


@contextmanager
def without_counting() -> Iterator[None]:
    """Let runs count no operations: seconds at every start, for figures that these tests do not look at."""
    from pretrain.engine import run as engine_run
    from pretrain.engine.device import Peak

    with MonkeyPatch.context() as patch:
        patch.setattr(engine_run, "training_flops", lambda *_: 0)
        patch.setattr(engine_run, "peak_flops", lambda *_: Peak(1.0, "known", "none"))
        yield


def _main(jobs: list[Job]) -> None:
    from finetune.evaluate import evaluate
    from pretrain.engine import run as engine_run
    from pretrain.engine.distributed import join_world, leave_world
    from tests.finetune import small_head
    from tests.finetune.captions import small_captions

    rank, found = join_world().rank, []
    for job in jobs:
        if job.begin_with and rank == 0:
            name = Path(job.begin_with).name
            shutil.copytree(job.begin_with, Path(job.run) / "checkpoints" / name)
        dist.barrier()
        config = (small_captions if job.task == "captions" else small_head).small_config
        engine_run.pretrain(config(Path(job.shards), **job.changes), Path(job.run))
        found.append(evaluate(Path(job.run), [], [], None))
    print("\n" + json.dumps(found))
    leave_world()


if __name__ == "__main__":
    torch.set_num_threads(1)
    with without_counting():
        _main([Job(**job) for job in json.loads(sys.argv[1])])
