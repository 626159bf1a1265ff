"""Runs on a real SLURM: submitted, warned, requeued, cancelled, left alone by a node; the weights never differ."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.history import Ended, Started, Submitted, read_history
from pretrain.engine.metrics_file import FILE_NAME, read_rows
from pretrain.engine.run_lock import read_holder
from tests.launch.slow_run import pace, trichord, weights_of, write_data, write_recipe
from tests.launch.slurm_cluster import Cluster
from tests.pretrain.processes import run_ranks

STEPS = 45


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("slow") / "data")


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run on two ranks that nobody disturbs, without SLURM and without a slow disk."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    recipe = write_recipe(data, folder / "fast.yaml", STEPS)
    run_ranks(["launch.cli", "pretrain", str(recipe), "--run", str(folder / "run")], 2, 240)
    return folder / "run"


class Launched:
    """A run that was launched, as a test follows it."""

    def __init__(self, cluster: Cluster, cwd: Path, run: str) -> None:
        self.cluster, self.cwd, self.folder = cluster, cwd, cwd / run
        self.job = next(event.job_id for event in reversed(read_history(self.folder)) if isinstance(event, Submitted))

    def starts(self) -> list[Started]:
        return [each for each in read_history(self.folder) if isinstance(each, Started) and each.job_id == self.job]

    def ends(self) -> list[Ended]:
        return [each for each in read_history(self.folder) if isinstance(each, Ended) and each.job_id == self.job]

    def writer(self) -> int | None:
        """Say which start holds the run's folder."""
        holder = read_holder(self.folder)
        return holder.restarts if holder else None

    def steps(self) -> int:
        path = self.folder / FILE_NAME
        return max((int(row["step"]) + 1 for row in read_rows(path)), default=0) if path.exists() else 0

    def wait_for(self, what: str, holds: Callable[[], bool], timeout_s: float = 150) -> None:
        end = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < end, f"waited {timeout_s} s in vain for: {what}\n{self.story()}"
            time.sleep(0.2)

    def wait_for_end(self, timeout_s: float = 150) -> str:
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
    assert rows == list(range(STEPS)), "each step is told once"
    assert not (run.folder / "lock").exists()


def test_two_nodes_train_as_two_processes_do(slurm: Cluster, data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    recipe = write_recipe(data, tmp_path / "fast.yaml", STEPS)
    options = "--nodes 2 --cpus-per-task 2 --time 10 --gpus-per-node 0 --partition main --account any"
    run = launch(slurm, tmp_path, options, recipe, "run")
    assert run.wait_for_end() == "COMPLETED", run.story()
    assert_same_as(uninterrupted, run)
    assert [(each.why, each.restarts, each.nodes) for each in run.starts()] == [("submitted", 0, "n[1-2]")]
    assert [each.how for each in run.ends()] == ["finished"]
    assert {path.name for path in run.folder.iterdir()} >= {
        "config.yaml",
        "metrics.jsonl",
        "checkpoints",
        "history.jsonl",
        "snapshots",
        "logs",
    }
    assert {path.name for path in (run.folder / "logs").glob("*_log.out")} == {
        f"{run.job}_0_log.out",
        f"{run.job}_1_log.out",
    }
    shown = trichord("status", "run", "--json", cwd=tmp_path)
    assert json.loads(shown.stdout)["rows"][0]["state"] == "finished", shown.stdout


def test_a_time_limit_costs_nothing_but_time(slurm: Cluster, data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    recipe = write_recipe(data, tmp_path / "slow.yaml", STEPS, shard_s=4.0)  # of 45 steps some 20 in a job's time
    run = launch(slurm, tmp_path, "--nodes 2 --time 1 --signal-delay-s 20", recipe, "run")
    run.wait_for("a second start", lambda: len(run.starts()) == 2)
    pace(recipe, 0.0)
    # A job that is requeued in the very second of its limit may be seen as ended.
    run.wait_for("the last of its ends", lambda: run.ends()[-1].how == "finished", 400)
    assert run.wait_for_end() == "COMPLETED", run.story()
    assert_same_as(uninterrupted, run)
    starts, ends = run.starts(), run.ends()
    assert [each.restarts for each in starts] == list(range(len(starts)))
    assert {each.why for each in starts[1:]} == {"the time limit was near"}
    assert [each.how for each in ends] == ["requeued"] * (len(starts) - 1) + ["finished"]
    # SLURM may warn a minute and a half early, here before the first step: the minute is used all the same.
    for start, end in zip(starts, ends, strict=False):
        assert end.how == "finished" or end.time_s - start.time_s > 25


def test_a_requeue_and_a_cancellation_in_the_middle_of_a_step_leave_a_run_that_goes_on(
    slurm: Cluster, data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    slow = write_recipe(data, tmp_path / "slow.yaml", STEPS, shard_s=4.0)
    run = launch(slurm, tmp_path, "--nodes 2 --time 30", slow, "run")
    run.wait_for("six steps", lambda: run.steps() >= 6)
    slurm.run("scontrol", "requeue", run.job)
    run.wait_for("a second start", lambda: len(run.starts()) == 2)
    assert "SIGTERM" in run.starts()[1].why
    before = run.steps()
    run.wait_for("six more steps", lambda: run.steps() >= before + 6)
    again = trichord("launch", "pretrain", str(slow), "--run", "run", cwd=tmp_path)
    assert again.returncode == 2
    assert f"job {run.job} (running) works in run already" in again.stderr
    slurm.run("scancel", run.job)
    assert run.wait_for_end() == "CANCELLED"
    run.wait_for("the end of its ranks", lambda: not (run.folder / "lock").exists())
    assert run.steps() < STEPS
    fast = write_recipe(data, tmp_path / "fast.yaml", STEPS)
    later = launch(slurm, tmp_path, "--nodes 2 --time 30", fast, "run")
    assert later.job != run.job
    assert later.wait_for_end() == "COMPLETED", later.story()
    assert_same_as(uninterrupted, later)
    assert sorted(path.name for path in (run.folder / "snapshots").iterdir()) == ["001", "002"]


def test_a_node_that_loses_touch_is_left_and_its_ranks_write_no_more(
    slurm: Cluster, data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """slurmd dies and the ranks live on: SLURM starts the job on another node while the first start still trains."""
    recipe = write_recipe(data, tmp_path / "slow.yaml", STEPS, shard_s=2.0)
    run = launch(slurm, tmp_path, "--tasks-per-node 2 --time 30", recipe, "run")
    run.wait_for("three steps", lambda: run.steps() >= 3)
    node = run.starts()[0].nodes
    slurm.kill_slurmd(node)
    pace(recipe, 8.0)  # so that it is not done before the cluster has noticed
    run.wait_for("a second start that writes", lambda: run.writer() == 1, 300)
    pace(recipe, 0.0)
    assert run.wait_for_end(240) == "COMPLETED", run.story()
    _, second = run.starts()
    assert second.nodes != node
    assert_same_as(uninterrupted, run)
    log = (run.folder / "logs" / f"{run.job}_0_log.out").read_text()
    assert "taking" in log and "over from an earlier start of this job" in log
    assert "NODE_FAIL" in second.why or "left no word" in second.why, second.why


def test_a_failing_job_s_traceback_is_shown_by_status(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    recipe = write_recipe(data, tmp_path / "fast.yaml", 5)
    (tmp_path / "run" / "config.yaml").mkdir(parents=True)  # which rank 0 alone runs into, while the other waits for it
    run = launch(slurm, tmp_path, "--nodes 2 --time 5", recipe, "run")
    assert run.wait_for_end() == "FAILED", run.story()
    shown = trichord("status", "run", cwd=tmp_path).stdout
    assert "failed" in shown
    assert "Traceback (most recent call last)" in shown, shown
    assert "IsADirectoryError" in shown
    assert "rank 0 failed first" in shown
    assert [each.how for each in run.ends()] == ["failed"]


def test_a_sweep_is_one_array_and_each_run_has_its_folder(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    recipe = write_recipe(data, tmp_path / "fast.yaml", 4)
    done = trichord(
        "launch", "--time", "10", "--array", "%2", "pretrain", str(recipe), "--run", "sweep", "seed=1,2", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    runs = [Launched(slurm, tmp_path, f"sweep/seed={seed}") for seed in (1, 2)]
    array = runs[0].job.partition("_")[0]
    assert [run.job for run in runs] == [f"{array}_0", f"{array}_1"]
    for run in runs:
        run.wait_for("its end", lambda run=run: bool(run.ends()))  # type: ignore[misc]
        assert run.ends()[0].how == "finished", run.story()
        assert (run.folder / "logs" / f"{run.job}_0_log.out").exists()
    assert weights_of(runs[0].folder, 4) != weights_of(runs[1].folder, 4)


def test_parts_of_a_build_run_beside_each_other(slurm: Cluster, tmp_path: Path) -> None:
    made = trichord("shards", "world", "--out", "world", "--samples", "24", "--rules", "max_seconds=2", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    whole = ["shards", "build", "csv", "--root", "world", "--samples-per-shard", "4", "--workers", "1", "--out"]
    assert trichord(*whole, "expected", cwd=tmp_path).returncode == 0
    done = trichord("launch", "--time", "10", "--array", "3", *whole, "found", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    array = json.loads((tmp_path / "found/jobs/part-001-of-003/history.jsonl").read_text().splitlines()[0])["job_id"]
    for number in range(3):
        assert slurm.wait_for_state(f"{array.partition('_')[0]}_{number}", {"COMPLETED", "FAILED"}) == "COMPLETED"
    for split in ("train", "val", "test"):
        manifests = [tmp_path / which / split / "manifest.json" for which in ("expected", "found")]
        assert manifests[0].read_bytes() == manifests[1].read_bytes()
