"""Runs on a real SLURM: submitted, warned before their time limit, failing, in arrays; with the same final weights."""

from __future__ import annotations

import json
from pathlib import Path

from tests.launch.slow_run import pace, trichord, weights_of, write_recipe
from tests.launch.slurm_cluster import Cluster
from tests.launch.slurm_launched import STEPS, Launched, assert_same_as, launch


def test_two_nodes_train_like_two_processes(slurm: Cluster, data: Path, uninterrupted: Path, tmp_path: Path) -> None:
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


def test_time_limit_does_not_change_the_result(slurm: Cluster, data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    recipe = write_recipe(
        data, tmp_path / "slow.yaml", STEPS, shard_s=4.0
    )  # about 20 of 45 steps fit into the time limit of a job
    run = launch(slurm, tmp_path, "--nodes 2 --time 1 --signal-delay-s 20 --allow-commands", recipe, "run")
    run.wait_for("a second start", lambda: len(run.starts()) == 2)
    # From now on the time limit is ample on a machine of any load; the second start may still use its minute.
    slurm.run("scontrol", "update", f"JobId={run.job}", "TimeLimit=30")
    pace(recipe, 0.0)
    # A job that is requeued in the second of its time limit may appear as ended.
    run.wait_for("the last of its ends", lambda: run.ends()[-1].how == "finished", 400)
    assert run.wait_for_end() == "COMPLETED", run.story()
    assert_same_as(uninterrupted, run)
    starts, ends = run.starts(), run.ends()
    assert [each.restarts for each in starts] == list(range(len(starts)))
    assert {each.why for each in starts[1:]} == {"the time limit was near"}
    assert [each.how for each in ends] == ["requeued"] * (len(starts) - 1) + ["finished"]
    # SLURM may warn 90 seconds early, here before the first step: the minute is used all the same.
    for start, end in zip(starts, ends, strict=False):
        assert end.how == "finished" or end.time_s - start.time_s > 25


def test_status_shows_the_traceback_of_a_failed_job(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    recipe = write_recipe(data, tmp_path / "fast.yaml", 5)
    (tmp_path / "run" / "config.yaml").mkdir(parents=True)  # an error of rank 0 alone, while the other waits for it
    run = launch(slurm, tmp_path, "--nodes 2 --time 5", recipe, "run")
    assert run.wait_for_end() == "FAILED", run.story()
    shown = trichord("status", "run", cwd=tmp_path).stdout
    assert "failed" in shown
    assert "Traceback (most recent call last)" in shown, shown
    assert "IsADirectoryError" in shown
    assert "rank 0 failed first" in shown
    assert [each.how for each in run.ends()] == ["failed"]


def test_sweep_is_one_array_and_each_run_has_its_folder(slurm: Cluster, data: Path, tmp_path: Path) -> None:
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


def test_parts_of_a_build_run_in_parallel(slurm: Cluster, tmp_path: Path) -> None:
    made = trichord(
        "shards", "synthetic", "--out", "world", "--samples", "24", "--rules", "max_seconds=2", cwd=tmp_path
    )
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
