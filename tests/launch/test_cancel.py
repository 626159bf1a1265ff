"""`trichord cancel` asks jobs to save and end, or ends them, and reports what it did for each run."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.fake_slurm import SACCT, SQUEUE, FakeSlurm
from tests.launch.made_runs import MadeRun, here
from tests.warm import HANGS_AFTER_S
from trichord.launch import cli, local_job
from trichord.launch.history import Submitted, write_event

RUNS, RUN = Path("runs"), Path("runs/one")
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes cannot be looked at here")


@pytest.fixture(autouse=True)
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    monkeypatch.chdir(tmp_path)
    fake = FakeSlurm(tmp_path / ".bin", monkeypatch)
    fake.answers("squeue", SQUEUE)
    fake.answers("sacct", SACCT)
    return fake


def test_jobs_of_a_sweep_are_cancelled_by_their_state(fake: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    MadeRun(RUNS / "sweep" / "a").submitted("70_1").started("70_1")
    MadeRun(RUNS / "sweep" / "b").submitted("70_2")
    MadeRun(RUNS / "sweep" / "c").submitted("70_0").started("70_0").ended("finished", job_id="70_0")
    assert cli.main(["cancel", "runs/sweep"]) == 0
    assert fake.asked("scancel") == ["--signal=USR1 70_1", "70_2"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("runs/sweep/a: job 70_1 was asked to save and end")
    assert lines[1:] == [
        "runs/sweep/b: job 70_2 was removed from the queue",
        "runs/sweep/c: nothing to do, it is finished",
    ]


def test_now_ends_a_job_immediately(fake: FakeSlurm) -> None:
    MadeRun(RUNS / "one").submitted("62").started("62")
    assert cli.main(["cancel", "runs/one", "--now"]) == 0
    assert fake.asked("scancel") == ["62"]


def test_job_that_does_not_handle_signals_yet_is_ended(fake: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    """A shell that still loads modules, or an interpreter that still imports, would miss the signal or die from it."""
    run = MadeRun(RUNS / "a").submitted("62")
    assert cli.main(["cancel", "runs/a"]) == 0
    assert "job 62 was ended; it had not started to work" in capsys.readouterr().out
    run.started("62").ended("requeued", job_id="62")
    assert cli.main(["cancel", "runs/a"]) == 0
    run.started("62", restarts=1)
    assert cli.main(["cancel", "runs/a"]) == 0
    assert fake.asked("scancel") == ["62", "62", "--signal=USR1 62"]


def test_nothing_to_cancel_is_an_error(fake: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    MadeRun(RUNS / "one").submitted("61").started("61").ended("finished", job_id="61")
    MadeRun(RUNS / "two").figures(10).checkpoint(10)
    assert cli.main(["cancel", "runs"]) == 2
    printed = capsys.readouterr().err
    assert "runs/one is finished" in printed and "runs/two is stopped" in printed
    assert fake.asked("scancel") == []


def test_refusal_of_slurm_is_reported_and_other_jobs_end(fake: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    for name, job_id in (("a", "70_1"), ("b", "62")):
        MadeRun(RUNS / name).submitted(job_id).started(job_id)
    fake.answers("scancel", error="scancel: error: Kill job error on job id 70_1: Job can not be altered", status=228)
    assert cli.main(["cancel", "runs/a", "runs/b"]) == 2
    assert "Kill job error" in capsys.readouterr().err
    assert len(fake.asked("scancel")) == 2


def test_run_that_was_not_launched_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    MadeRun(RUNS / "one").figures(10).lock(age_s=1, host="gpu7")
    assert cli.main(["cancel", "runs/one"]) == 2
    assert "on gpu7: kill -TERM 4321" in capsys.readouterr().err


def test_local_job_of_another_machine_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    MadeRun(RUNS / "one").submitted("17", "local", host="gpu7").started("17").lock("17", age_s=1)
    assert cli.main(["cancel", "runs/one"]) == 2
    assert "on gpu7: trichord cancel runs/one" in capsys.readouterr().err


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Start submitit's own controller with one rank, which reports a SIGTERM and continues."""
    from submitit.local.local import start_controller

    (tmp_path / RUN).mkdir(parents=True)
    rank = tmp_path / "rank.py"
    rank.write_text(
        "import os, pathlib, signal, time\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "signal.signal(signal.SIGTERM, lambda *_: (folder / 'signalled').touch())\n"
        "(folder / 'new').write_text(str(os.getpid()))\n"
        "(folder / 'new').rename(folder / 'rank')\n"
        "while True: time.sleep(1)\n"
    )
    process = start_controller(tmp_path / RUN / "logs", shlex.join([sys.executable, str(rank)]), timeout_min=5)
    wait_for((tmp_path / "rank").exists)
    yield process, tmp_path
    process.kill()
    process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.kill(int((tmp_path / "rank").read_text()), signal.SIGKILL)


@needs_proc
def test_local_job_is_asked_to_save_and_then_ended(
    controller: tuple[subprocess.Popen[bytes], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process, folder = controller
    submit(RUN, process.pid, time.time())
    assert cli.main(["cancel", "runs/one"]) == 0
    assert "was asked to let its ranks save and end" in capsys.readouterr().out
    wait_for((folder / "signalled").exists)
    assert process.poll() is None
    monkeypatch.setattr(local_job.end, "__defaults__", (0.2,))
    assert cli.main(["cancel", "runs/one", "--now"]) == 0
    process.wait(timeout=HANGS_AFTER_S)
    rank = int((folder / "rank").read_text())
    wait_for(lambda: local_job._began_s(rank) is None)
    assert cli.main(["cancel", "runs/one"]) == 2
    assert "runs/one is lost" in capsys.readouterr().err


@needs_proc
def test_process_with_a_reused_id_is_not_signalled(
    controller: tuple[subprocess.Popen[bytes], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    process, folder = controller
    submit(RUN, process.pid, time.time() - 3600)  # the job is older than the process
    submit(RUNS / "another", process.pid, time.time())  # whose process belongs to another run
    submit(RUNS / "other", os.getpid(), time.time())  # and this process is not submitit's
    assert cli.main(["cancel", "runs", "--now"]) == 2
    assert "nothing to cancel" in capsys.readouterr().err
    assert process.poll() is None and not (folder / "signalled").exists()


def submit(run: Path, pid: int, time_s: float) -> None:
    run.mkdir(parents=True, exist_ok=True)
    write_event(
        run,
        Submitted(
            time_s=time_s,
            job_id=str(pid),
            cluster="local",
            host=here(),
            snapshot="001",
            words=("pretrain",),
            nodes=1,
            ranks=1,
        ),
    )


def wait_for(is_so: object, seconds: float = HANGS_AFTER_S) -> None:
    assert callable(is_so)
    until_s = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until_s
        time.sleep(0.02)
