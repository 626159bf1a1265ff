"""`trichord status` lists all runs, queries SLURM once, and suggests the next command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.launch.fake_slurm import FORGOTTEN, SACCT, SQUEUE, FakeSlurm
from tests.launch.made_runs import MadeRun
from trichord.launch import cli, slurm

ROOT = Path(__file__).resolve().parents[2]
RUNS = Path("runs")
TRACEBACK = 'Traceback (most recent call last):\n  File "loop.py", line 3, in go\nZeroDivisionError: division by zero\n'


@pytest.fixture(autouse=True)
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    monkeypatch.chdir(tmp_path)
    fake = FakeSlurm(tmp_path / ".bin", monkeypatch)
    fake.answers("squeue", SQUEUE)
    fake.answers("sacct", SACCT)
    return fake


def rows(capsys: pytest.CaptureFixture[str], *named: str) -> dict[str, dict[str, Any]]:
    capsys.readouterr()
    assert cli.main(["status", *named, "--json"]) == 0
    return {row["run"]: row for row in json.loads(capsys.readouterr().out)["rows"]}


def shown(capsys: pytest.CaptureFixture[str], *named: str) -> str:
    capsys.readouterr()
    assert cli.main(["status", *named]) == 0
    return capsys.readouterr().out


def test_every_run_below_a_folder_is_listed_with_one_query(capsys: pytest.CaptureFixture[str], fake: FakeSlurm) -> None:
    MadeRun(RUNS / "running").submitted("62").started("62").figures(25)
    MadeRun(RUNS / "queued").submitted("64")
    MadeRun(RUNS / "dead").submitted("68").started("68")
    for number in (1, 2):
        MadeRun(RUNS / "sweep" / f"seed={number}").submitted(f"70_{number}", words=("pretrain", "svt"))
    MadeRun(Path("elsewhere")).figures(100).checkpoint(100)
    MadeRun(Path("by_hand")).figures(50).lock(age_s=2)
    found = rows(capsys)
    assert {name: row["state"] for name, row in found.items()} == {
        "runs/running": "running",
        "runs/queued": "queued",
        "runs/dead": "stopped",
        "runs/sweep/seed=1": "running",
        "runs/sweep/seed=2": "queued",
        "elsewhere": "finished",
        "by_hand": "running",
    }
    assert len(fake.asked("squeue")) == len(fake.asked("sacct")) == 1
    row = found["runs/running"]
    assert (row["step"], row["steps"], row["percent"], row["clips_per_s"], row["job"]) == (25, 100, 25.0, 64.5, "62")
    assert "history" not in row  # only of the named runs


def test_newest_run_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    for age_s, name in ((300, "old"), (100, "new"), (200, "middle")):
        run = MadeRun(RUNS / name).figures(10)
        os.utime(run.path / "metrics.jsonl", (time.time() - age_s, time.time() - age_s))
    assert list(rows(capsys)) == ["runs/new", "runs/middle", "runs/old"]


def test_subfolders_of_runs_and_deep_folders_are_not_searched(capsys: pytest.CaptureFixture[str]) -> None:
    MadeRun(RUNS / "one").figures(10)
    MadeRun(RUNS / "one" / "snapshots" / "x").figures(10)
    MadeRun(Path(*"abcdefgh")).figures(10)
    (RUNS / "one" / "round").symlink_to(RUNS.absolute())
    assert list(rows(capsys)) == ["runs/one"]


def test_time_left_is_computed_from_the_last_metrics_line(capsys: pytest.CaptureFixture[str]) -> None:
    run = MadeRun(RUNS / "one").submitted("62").started("62")
    row = {"step": 9, "time_s": time.time() - 30, "steps": 100, "eta_s": 100.0}
    (run.path / "metrics.jsonl").write_text(json.dumps(row) + '\n{"step": 10, "tor')
    assert rows(capsys)["runs/one"]["eta_s"] == pytest.approx(70, abs=5)
    run.started("62", restarts=1)  # which has not written a line yet
    (run.path / "metrics.jsonl").write_text(json.dumps({**row, "time_s": 1.0}) + "\n")
    found = rows(capsys)["runs/one"]
    assert (found["eta_s"], found["step"], found["restarts"]) == (None, 10, 1)


def test_failure_shows_the_rank_that_caused_it(capsys: pytest.CaptureFixture[str]) -> None:
    run = MadeRun(RUNS / "one").submitted("65").started("65").log(0, "text\n", "65").ended("failed", job_id="65")
    run.error(0, "RuntimeError: rank 0 of 4 timed out waiting for the other ranks in: save", job_id="65", after_s=0)
    run.error(2, "ZeroDivisionError: division by zero", TRACEBACK, job_id="65", after_s=5)
    run.error(3, "ZeroDivisionError: division by zero", TRACEBACK, job_id="65", after_s=9)
    text = shown(capsys, "runs/one")
    assert "rank 2 failed first" in text
    assert 'File "loop.py", line 3, in go' in text
    assert "trichord logs runs/one --rank 2; when that is fixed: trichord launch pretrain svt seed=1" in text
    assert rows(capsys)["runs/one"]["last_error"] == "ZeroDivisionError: division by zero"


def test_error_of_an_earlier_start_is_not_attributed_to_the_current_one(capsys: pytest.CaptureFixture[str]) -> None:
    run = MadeRun(RUNS / "one").submitted("62").started("62")
    run.error(3, "OSError: disk", restarts=0)
    assert rows(capsys)["runs/one"]["last_error"] == "OSError: disk"
    run.started("62", restarts=1, why="NODE_FAIL")
    assert rows(capsys)["runs/one"]["last_error"] is None
    run.submitted("64")
    assert rows(capsys)["runs/one"]["state"] == "queued"
    assert rows(capsys)["runs/one"]["last_error"] is None


def test_late_end_of_an_earlier_start_does_not_affect_the_current_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Its node was disconnected: it noticed that the job runs elsewhere only after that start had begun."""
    run = MadeRun(RUNS / "r").submitted().started().started(restarts=1, why="NODE_FAIL")
    run.error(0, "r belongs to a later start of this job").ended("failed", "r belongs to a later start of this job")
    run.figures(25)
    row = rows(capsys)["runs/r"]
    assert (row["state"], row["step"], row["job"], row["restarts"]) == ("running", 25, "62", 1)
    assert "later start" not in shown(capsys, str(RUNS / "r")).splitlines()[0]


def test_events_of_a_run_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    run = MadeRun(RUNS / "one").submitted("62", words=("pretrain", "svt", "a.b=it's")).started("62").checkpoint(40)
    run.ended("requeued", "the time limit was near").started("62", restarts=1, why="the time limit was near")
    run.log(0, "x", "62").log(1, "x", "62").checkpoint(80).started("62", restarts=2, why="NODE_FAIL")
    text = shown(capsys, "runs/one")
    assert """pretrain svt 'a.b=it'"'"'s'""" in text
    assert "requeued at" in text and "(the time limit was near)" in text
    assert "restart 1: the time limit was near) on n[1-2]; killed" in text
    assert "restart 2: NODE_FAIL) on n[1-2]; no end recorded yet" in text
    assert "checkpoint: runs/one/checkpoints/step_00000080" in text
    assert "logs: runs/one/logs/62_R_log.out, R = 0 to 1" in text
    assert "next: trichord logs runs/one --follow" in text


def test_suggested_command_repeats_the_resources_of_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    run = MadeRun(RUNS / "one").submitted("67", words=("pretrain", "svt")).started("67")
    order = {"settings": {"nodes": 2, "gpus_per_node": 8, "time": "1-00:00:00", "partition": None, "setup": ["a b"]}}
    order["settings"] |= {"sbatch": {"exclusive": True, "nice": "5"}, "srun": ["--mpi=pmix"]}
    (run.path / "snapshots" / "001").mkdir(parents=True)
    (run.path / "snapshots" / "001" / "launch.json").write_text(json.dumps(order))
    expected = (
        "trichord launch --nodes 2 --gpus-per-node 8 --time 1-00:00:00 --sbatch exclusive=true --sbatch nice=5 "
        "--setup 'a b' --srun=--mpi=pmix pretrain svt"
    )
    assert f"next: {expected}\n" in shown(capsys, "runs/one")
    MadeRun(Path("hand")).figures(10).checkpoint(10)
    assert "next: trichord pretrain hand/config.yaml --run hand\n" in shown(capsys, "hand")


def test_suggestion_for_a_run_of_a_sweep_uses_its_own_config(capsys: pytest.CaptureFixture[str]) -> None:
    run = MadeRun(RUNS / "sweep" / "seed=1").submitted("68_1").started("68_1")
    (run.path / "config.yaml").write_text("seed: 1\n")
    found = rows(capsys, str(run.path))[str(run.path)]
    assert found["next"].startswith(f"trichord launch pretrain {run.path}/config.yaml --run")


def test_run_that_was_resumed_by_hand_shows_its_newest_state(capsys: pytest.CaptureFixture[str]) -> None:
    run = MadeRun(RUNS / "one").submitted("62").started("62").figures(10).ended("stopped", "SIGTERM").figures(100)
    assert rows(capsys)["runs/one"]["state"] == "finished"
    run.lock(age_s=1)
    assert (rows(capsys)["runs/one"]["state"], rows(capsys)["runs/one"]["job"]) == ("running", "process 4321")


def test_without_slurm_the_state_comes_from_the_folders(
    capsys: pytest.CaptureFixture[str], fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "PATIENCE_S", 0.2)
    MadeRun(RUNS / "one").submitted("62").started("62").lock("62", age_s=3)
    MadeRun(RUNS / "two").submitted("64").started("64").lock("64", age_s=900)
    fake.hangs("squeue")
    assert cli.main(["status"]) == 0
    printed = capsys.readouterr()
    assert "SLURM does not answer: squeue did not answer" in printed.err
    assert {name: row["state"] for name, row in rows(capsys).items()} == {"runs/one": "running", "runs/two": "lost"}


def test_disabled_accounting_is_reported_only_where_it_matters(
    capsys: pytest.CaptureFixture[str], fake: FakeSlurm
) -> None:
    fake.answers("squeue", error=FORGOTTEN, status=1)
    fake.answers("sacct", error="Slurm accounting storage is disabled", status=1)
    run = MadeRun(RUNS / "one").submitted("61").started("61")
    assert cli.main(["status"]) == 0
    assert "accounting storage is disabled" in capsys.readouterr().err
    run.ended("stopped", "SIGTERM", job_id="61")
    assert cli.main(["status"]) == 0
    assert capsys.readouterr().err == ""


def test_folder_that_is_not_a_run_is_answered_with_similar_ones(capsys: pytest.CaptureFixture[str]) -> None:
    MadeRun(RUNS / "svt_first").figures(10)
    (RUNS / "empty").mkdir()
    assert cli.main(["status", "runs/svt_frist"]) == 2
    printed = capsys.readouterr().err
    assert "runs/svt_frist does not exist" in printed and "runs/svt_first" in printed
    assert cli.main(["status", "runs/empty"]) == 2
    assert "runs/empty holds no run" in capsys.readouterr().err


def test_without_runs_the_searched_files_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status"]) == 2
    assert "history.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["status", "runs/one"], ["logs", "runs/one"], ["cancel", "runs/one"]])
def test_status_does_not_import_torch(words: list[str]) -> None:
    MadeRun(RUNS / "one").submitted("62").started("62").figures(5).log(0, "text\n")
    script = f"import sys; from trichord.launch.cli import main; main({words}); sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "runs/one" in done.stdout or done.stdout == "text\n"
