"""What each rank of these tests runs: small runs with heads, one after another, each tested when it is done.

python -m tests.finetune.jobs 2 '[{"run": "runs/a", "shards": "shards", "task": "classes", "changes": {"steps": 4}}]'
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pytest import MonkeyPatch

from finetune.evaluate import evaluate
from pretrain.engine import run as engine_run
from pretrain.engine.device import Peak
from pretrain.engine.distributed import join_world, leave_world
from tests.finetune import small_head
from tests.finetune.captions import small_captions
from tests.pretrain.processes import ROOT


@dataclass(frozen=True)
class Job:
    """A run; changes as small_config takes them."""

    run: str
    shards: str
    task: str = "classes"
    changes: dict[str, Any] = field(default_factory=dict)


def run_jobs(jobs: list[Job], ranks: int) -> list[dict[str, Any]]:
    """Run jobs on real ranks; give what the first of them found when it tested each run."""
    text = json.dumps([asdict(job) for job in jobs])
    command = [sys.executable, "-m", "tests.finetune.jobs", str(ranks), text]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def _as_ranks(ranks: int, work: Callable[[], None]) -> None:
    """Do work in as many processes, forked from this one: to import all of it takes each ten seconds."""
    import deepspeed  # noqa: F401

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
    running = {}
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            os.environ |= {**shared, "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)}
            try:
                work()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            sys.stdout.flush()
            os._exit(0)
        running[child] = rank
    while running:
        child, status = os.wait()
        rank = running.pop(child)
        if status:  # the others would wait for it
            for other in running:
                os.kill(other, signal.SIGKILL)
            sys.exit(f"rank {rank} failed")


@contextmanager
def without_counting() -> Iterator[None]:
    """Let runs count no operations: seconds at every start, for figures that these tests do not look at."""
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
        _as_ranks(int(sys.argv[1]), lambda: _main([Job(**job) for job in json.loads(sys.argv[2])]))
