"""The work of each rank of these tests: small runs with heads, one after another, each tested at its end.

python -m tests.finetune.jobs '[{"run": "runs/a", "shards": "shards", "task": "classes", "changes": {"steps": 4}}]'
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pytest import MonkeyPatch

from tests.finetune import small_head
from tests.finetune.tasks.captioning import small_captions
from tests.pretrain.processes import run_ranks
from trichord.finetune.evaluation.evaluate import evaluate
from trichord.pretrain.engine import run as engine_run
from trichord.pretrain.engine.device import Peak
from trichord.pretrain.engine.distributed import join_world, leave_world


@dataclass(frozen=True)
class Job:
    """A run; changes as in small_config."""

    run: str
    shards: str
    task: str = "classes"
    changes: dict[str, Any] = field(default_factory=dict)


def run_jobs(jobs: list[Job], ranks: int) -> list[dict[str, Any]]:
    """Run jobs on real ranks; return the test results of rank 0 for each run."""
    text = json.dumps([asdict(job) for job in jobs])
    printed, *_ = run_ranks(["tests.finetune.jobs", text], ranks)
    found: list[dict[str, Any]] = json.loads(printed.splitlines()[-1])
    return found


@contextmanager
def without_counting() -> Iterator[None]:
    """Skip counting operations in runs: it takes seconds at every start, and these tests do not use the figures."""
    with MonkeyPatch.context() as patch:
        patch.setattr(engine_run, "training_flops", lambda *_: 0)
        patch.setattr(engine_run, "peak_flops", lambda *_: Peak(1.0, "known", "none"))
        yield


def _main(jobs: list[Job]) -> None:
    rank, found = join_world().rank, []
    for job in jobs:
        config = (small_captions if job.task == "captions" else small_head).small_config
        engine_run.pretrain(config(Path(job.shards), **job.changes), Path(job.run))
        found.append(evaluate(Path(job.run), [], [], None))
    if rank == 0:
        print("\n" + json.dumps(found))
    leave_world()


if __name__ == "__main__":
    torch.set_num_threads(1)
    with without_counting():
        _main([Job(**job) for job in json.loads(sys.argv[1])])
