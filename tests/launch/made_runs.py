"""Run folders that tests write by hand."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from trichord.core.run_folder import RunFolder
from trichord.launch.history import (
    Cluster,
    Ended,
    How,
    RankError,
    Started,
    Submitted,
    error_path,
    log_path,
    write_event,
)
from trichord.pretrain.engine.run_lock import Holder

NOW_S = time.time()


class MadeRun:
    """A run folder to which calls add records, each a minute after the previous one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._time_s = NOW_S - 3600
        path.mkdir(parents=True, exist_ok=True)

    def submitted(
        self,
        job_id: str = "62",
        cluster: Cluster = "slurm",
        host: str = "login1",
        ranks: int = 2,
        words: Sequence[str] = ("pretrain", "svt", "seed=1"),
    ) -> MadeRun:
        write_event(
            self.path,
            Submitted(
                time_s=self._tick(),
                job_id=job_id,
                cluster=cluster,
                host=host,
                snapshot="001",
                words=tuple(words),
                nodes=1,
                ranks=ranks,
            ),
        )
        return self

    def started(self, job_id: str = "62", restarts: int = 0, why: str = "submitted") -> MadeRun:
        event = Started(time_s=self._tick(), job_id=job_id, restarts=restarts, why=why, nodes="n[1-2]", pid=9)
        write_event(self.path, event)
        return self

    def ended(self, how: How, why: str = "", job_id: str = "62", restarts: int = 0) -> MadeRun:
        write_event(self.path, Ended(time_s=self._tick(), job_id=job_id, restarts=restarts, how=how, why=why))
        return self

    def figures(self, done: int, steps: int = 100, eta_s: float | None = 90.0) -> MadeRun:
        row = {"step": done - 1, "time_s": self._tick(), "steps": steps, "clips_per_s": 64.5, "eta_s": eta_s}
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        return self

    def error(
        self, rank: int, message: str, traceback: str = "", restarts: int = 0, job_id: str = "62", after_s: float = 0.0
    ) -> MadeRun:
        path = error_path(self.path, job_id, rank)
        path.parent.mkdir(exist_ok=True)
        told_s = NOW_S - 60 + after_s
        error = RankError(time_s=told_s, rank=rank, restarts=restarts, message=message, traceback=traceback)
        path.write_text(error.model_dump_json())
        return self

    def log(self, rank: int, text: str, job_id: str = "62") -> MadeRun:
        path = log_path(self.path, job_id, rank)
        path.parent.mkdir(exist_ok=True)
        with path.open("a") as file:
            file.write(text)
        return self

    def checkpoint(self, step: int) -> MadeRun:
        (self.path / "checkpoints" / f"step_{step:08d}").mkdir(parents=True)
        return self

    def lock(self, job_id: str | None = None, age_s: float = 0.0, host: str = "elsewhere") -> MadeRun:
        holder = Holder(token="t", job_id=job_id, restarts=0, host=host, machine="", pid=4321, started="1")
        path = RunFolder(self.path).lock
        path.write_text(holder.model_dump_json())
        os.utime(path, (time.time() - age_s, time.time() - age_s))
        return self

    def _tick(self) -> float:
        self._time_s += 60
        return self._time_s


def here() -> str:
    return socket.gethostname()
