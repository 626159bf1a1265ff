"""Runs on a real SLURM that are requeued, cancelled or disconnected; their final weights are always the same."""

from __future__ import annotations

from pathlib import Path

from tests.launch.slow_run import pace, trichord, write_recipe
from tests.launch.slurm_cluster import Cluster
from tests.launch.slurm_launched import STEPS, assert_same_as, launch


def test_run_resumes_after_a_requeue_and_a_cancellation_within_a_step(
    slurm: Cluster, data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    slow = write_recipe(data, tmp_path / "slow.yaml", STEPS, shard_s=4.0)
    run = launch(slurm, tmp_path, "--nodes 2 --time 30 --allow-commands", slow, "run")
    run.wait_for("six steps", lambda: run.steps() >= 6)
    slurm.run("scontrol", "requeue", run.job)
    run.wait_for("a second start", lambda: len(run.starts()) == 2)
    assert "SIGTERM" in run.starts()[1].why
    before = run.steps()
    run.wait_for("six more steps", lambda: run.steps() >= before + 6)
    again = trichord("launch", "pretrain", str(slow), "--run", "run", "--allow-commands", cwd=tmp_path)
    assert again.returncode == 2
    assert f"job {run.job} (running) already uses run" in again.stderr
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


def test_ranks_of_a_disconnected_node_stop_writing(
    slurm: Cluster, data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """slurmd dies while its ranks run on: SLURM starts the job on another node while the first start still trains."""
    recipe = write_recipe(data, tmp_path / "slow.yaml", STEPS, shard_s=2.0)
    run = launch(slurm, tmp_path, "--tasks-per-node 2 --time 30 --allow-commands", recipe, "run")
    log = run.folder / "logs" / f"{run.job}_0_log.out"
    run.wait_for("a first checkpoint", lambda: run.steps() >= 6)
    node = run.starts()[0].nodes
    slurm.kill_slurmd(node)
    pace(recipe, 60.0)  # within a step it waits for its data, until the job has started elsewhere
    run.wait_for("a second start that goes on", lambda: "resuming run/checkpoints/" in log.read_text())
    assert run.writer() == 1
    pace(recipe, 0.0)
    run.wait_for("the first start's end", lambda: any(end.restarts == 0 for end in run.ends()))
    assert run.wait_for_end(240) == "COMPLETED", run.story()
    _, second = run.starts()
    assert second.nodes != node
    assert_same_as(uninterrupted, run)
    first, last = run.ends()
    assert (first.restarts, first.how) == (0, "failed") and "belongs to a later start of this job" in first.why
    assert (last.restarts, last.how) == (1, "finished")
    assert "from an earlier start of this job" in log.read_text()
    assert "NODE_FAIL" in second.why or "recorded no end" in second.why, second.why
