"""A run that was launched on the SLURM cluster of the tests, and checks of its final weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.launch.slow_run import trichord, weights_of
from tests.launch.slurm_cluster import Cluster
from tests.warm import HANGS_AFTER_S
from trichord.launch.history import Ended, Started, Submitted, read_history
from trichord.pretrain.engine.run_lock import read_holder
from trichord.pretrain.engine.trackers import FILE_NAME, read_rows

STEPS = 45


class Launched:
    """A launched run that a test follows."""

    def __init__(self, cluster: Cluster, cwd: Path, run: str) -> None:
        self.cluster, self.cwd, self.folder = cluster, cwd, cwd / run
        self.job = next(event.job_id for event in reversed(read_history(self.folder)) if isinstance(event, Submitted))

    def starts(self) -> list[Started]:
        return [each for each in read_history(self.folder) if isinstance(each, Started) and each.job_id == self.job]

    def ends(self) -> list[Ended]:
        return [each for each in read_history(self.folder) if isinstance(each, Ended) and each.job_id == self.job]

    def writer(self) -> int | None:
        """Return the start that holds the lock of the run folder."""
        holder = read_holder(self.folder)
        return holder.restarts if holder else None

    def steps(self) -> int:
        path = self.folder / FILE_NAME
        return max((int(row["step"]) + 1 for row in read_rows(path)), default=0) if path.exists() else 0

    def wait_for(self, what: str, holds: Callable[[], bool], timeout_s: float = HANGS_AFTER_S) -> None:
        end = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < end, f"waited {timeout_s} s in vain for: {what}\n{self.story()}"
            time.sleep(0.2)

    def wait_for_end(self, timeout_s: float = HANGS_AFTER_S) -> str:
        ends = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}
        try:
            return self.cluster.wait_for_state(self.job, ends, timeout_s)
        except Exception as error:
            raise AssertionError(f"{error}\n{self.story()}") from error

    def story(self) -> str:
        logs = [path.read_text()[-2000:] for path in sorted((self.folder / "logs").glob("*_log.out"))]
        return "\n".join([*map(str, read_history(self.folder)), *logs])


def launch(cluster: Cluster, cwd: Path, options: str, recipe: Path, run: str) -> Launched:
    done = trichord("launch", "--cluster", "slurm", *options.split(), "pretrain", str(recipe), "--run", run, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return Launched(cluster, cwd, run)


def assert_same_as(uninterrupted: Path, run: Launched) -> None:
    expected = weights_of(uninterrupted, STEPS)
    assert weights_of(run.folder, STEPS) == expected, run.story()
    assert len(expected) > 50
    rows = [row["step"] for row in read_rows(run.folder / FILE_NAME)]
    assert rows == list(range(STEPS)), "each step is logged once"
    assert not (run.folder / "lock").exists()
