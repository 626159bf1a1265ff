"""How a job reacts when its command ends, fails or is stopped; small programs take the part of SLURM."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.launch.slow_run import ROOT
from tests.warm import HANGS_AFTER_S
from trichord.launch import submit
from trichord.launch.history import Ended, RankError, Started, read_history

# Takes the part of the command of a job: reports its start, and obeys the stop flag at the end of a "step".
COMMAND = """
import os, sys, time
from pathlib import Path
from trichord.launch import commands
from trichord.launch.work import JobCommand
from trichord.pretrain.engine.signals import listening
from trichord.core.errors import Interrupted, RunStopped, UserError

def run(words):
    Path("began").touch()
    kind = words[0]
    if kind == "mistake":
        raise UserError("found nothing here")
    if kind == "bug":
        raise ZeroDivisionError("of all things")
    if kind == "status":
        return 1
    if kind == "loop":
        with listening() as stop:
            while stop.received is None:
                time.sleep(0.01)
            raise Interrupted(stop.received, f"stopped by {stop.received.name}")
    if kind == "slow save":
        with listening() as stop:
            while stop.received is None:
                time.sleep(0.01)
            heard = stop.received
            Path("saving").touch()
            time.sleep(1)
            raise Interrupted(heard, f"stopped by {heard.name}")
    if kind == "build":
        time.sleep(60)
    return 0

commands.run_job_command = run
JobCommand((sys.argv[1],), Path("run"), sys.argv[1] != "build", int(sys.argv[2]), 5.0)()
"""
# Takes the part of submitit, which has handlers of its own before the work starts and after it has ended.
SUBMITIT = f"""
import signal, time
from pathlib import Path

def give_up(*_):
    raise RuntimeError("timed out and not checkpointable")

Path("python").touch()
while not Path("go").exists():
    time.sleep(0.01)
signal.signal(signal.SIGUSR2, give_up)
{COMMAND}
Path("over").touch()
time.sleep(0.2)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a run, and a SLURM that reports twenty seconds left and records its queries."""
    (tmp_path / "run" / "logs").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    for name, script in {
        "scontrol": (
            'echo "$@" >> asked\n'
            '[ "$1" = show ] && echo "StartTime=2026-01-01T00:00:00 PreemptTime=${PREEMPTED:-None}"\n'
            "exit ${BROKEN:-0}"
        ),
        "squeue": 'echo "${LEFT:-10:00}"',
        "sacct": 'printf "%s\\n" "${FORMER:-NODE_FAIL}" RUNNING',
    }.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def start(
    place: Path,
    kind: str,
    environment: Mapping[str, str],
    max_restarts: int = 3,
    python: Sequence[str] = (sys.executable,),
    program: str = COMMAND,
) -> subprocess.Popen[str]:
    path = f"{place / 'bin'}:{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SUBMITIT"))}
    return subprocess.Popen(
        [*python, "-c", program, kind, str(max_restarts)],
        cwd=place,
        env={**kept, "PATH": path, "PYTHONPATH": str(ROOT), **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(
    place: Path, kind: str, environment: Mapping[str, str], *numbers: signal.Signals, max_restarts: int = 3
) -> tuple[int, str]:
    """Run it, send signals once it has started, and return its exit status and output."""
    process = start(place, kind, environment, max_restarts)
    end = time.monotonic() + HANGS_AFTER_S
    while numbers and not (place / "began").exists():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)
    for number in numbers:
        process.send_signal(number)
    _, output = process.communicate(timeout=HANGS_AFTER_S)
    return process.returncode, output


def last_end(place: Path) -> Ended:
    found = [event for event in read_history(place / "run") if isinstance(event, Ended)]
    return found[-1]


def asked(place: Path) -> str:
    path = place / "asked"
    return path.read_text() if path.exists() else ""


JOB = {"SLURM_JOB_ID": "5", "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": "n[1-2]"}


def test_successful_command_is_finished(place: Path) -> None:
    assert finish(place, "done", JOB) == (0, "")
    started, ended = read_history(place / "run")
    assert isinstance(started, Started) and (started.job_id, started.nodes, started.why) == ("5", "n[1-2]", "submitted")
    assert isinstance(ended, Ended) and ended.how == "finished"


@pytest.mark.parametrize(
    ("kind", "message", "has_traceback"),
    [
        ("mistake", "found nothing here", False),
        ("bug", "ZeroDivisionError: of all things", True),
        ("status", "ended with status 1", False),
    ],
)
def test_failed_rank_writes_an_error_file(place: Path, kind: str, message: str, has_traceback: bool) -> None:
    status, output = finish(place, kind, {**JOB, "SLURM_PROCID": "1"})
    assert status == 1 and message in output
    found = RankError.model_validate_json((place / "run/logs/5_1_error.json").read_text())
    assert message in found.message and bool(found.traceback) == has_traceback
    assert read_history(place / "run") == [], "that is for rank 0 to write"
    assert finish(place, kind, JOB)[0] == 1
    assert last_end(place).how == "failed" and message in last_end(place).why


def test_warning_requeues_the_job_once(place: Path) -> None:
    status, output = finish(place, "loop", {**JOB, "LEFT": "1-00:00:00"}, signal.SIGUSR2)
    assert (status, "stopped by SIGUSR2" in output) == (0, True)
    assert "requeue 5" in asked(place)
    assert (last_end(place).how, last_end(place).why) == ("requeued", "the time limit was near")


def test_cancellation_while_saving_after_a_warning_takes_effect(place: Path) -> None:
    process = start(place, "slow save", {**JOB, "LEFT": "1-00:00:00"})
    for file, number in ("began", signal.SIGUSR2), ("saving", signal.SIGUSR1):
        while not (place / file).exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
    process.communicate(timeout=HANGS_AFTER_S)
    assert process.returncode == 0 and "requeue" not in asked(place)
    assert last_end(place).how == "stopped" and "trichord cancel" in last_end(place).why


def wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    while not file.exists():
        assert process.poll() is None
        time.sleep(0.005)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_warning_before_the_start_or_after_the_end_has_no_effect(place: Path, rank: str) -> None:
    python = shlex.split(submit.PYTHON)
    process = start(place, "done", {**JOB, "SLURM_PROCID": rank}, python=python, program=SUBMITIT)
    wait_for(place / "python", process)
    process.send_signal(signal.SIGUSR2)
    (place / "go").touch()
    wait_for(place / "over", process)
    while process.poll() is None:  # to the very end: Python removes its handlers before the process ends
        process.send_signal(signal.SIGUSR2)
        process.send_signal(signal.SIGUSR1)
    assert process.returncode == 0, process.communicate()[1]
    assert asked(place).count("requeue") == 0
    assert rank == "1" or last_end(place).how == "finished"


def test_rank_that_ends_after_a_warning_survives_the_next_one(place: Path) -> None:
    process = start(place, "loop", {**JOB, "SLURM_PROCID": "1"}, program=SUBMITIT)
    (place / "go").touch()
    wait_for(place / "began", process)
    process.send_signal(signal.SIGTERM)
    wait_for(place / "over", process)
    while process.poll() is None:
        process.send_signal(signal.SIGUSR2)
    assert process.returncode == 0, process.communicate()[1]


def test_only_rank_0_requeues(place: Path) -> None:
    status, _ = finish(place, "loop", {**JOB, "SLURM_PROCID": "1"}, signal.SIGUSR2, signal.SIGTERM)
    assert status == 0, "a rank that failed would take the first down with it"
    assert asked(place) == "" and read_history(place / "run") == []


def test_preemption_is_recorded_as_such(place: Path) -> None:
    finish(place, "loop", {**JOB, "PREEMPTED": "2026-01-01T00:00:00"}, signal.SIGUSR2)
    assert last_end(place).why == "another job preempted it"


def test_unnoticed_preemption_is_found_by_a_query(place: Path) -> None:
    assert finish(place, "loop", {**JOB, "PREEMPTED": "2026-01-01T00:00:01"})[0] == 0
    assert (last_end(place).how, last_end(place).why) == ("requeued", "another job preempted it")


def test_preemption_of_an_earlier_start_does_not_count(place: Path) -> None:
    finish(place, "done", {**JOB, "PREEMPTED": "2025-12-31T23:59:59"})
    assert last_end(place).how == "finished"


def test_job_stops_by_its_own_clock_without_a_signal(place: Path) -> None:
    began_s = time.monotonic()
    assert finish(place, "loop", {**JOB, "LEFT": "0:06"})[0] == 0
    assert time.monotonic() - began_s < 20
    assert last_end(place).how == "requeued"


def test_job_shorter_than_its_warning_works_for_half_its_time(place: Path) -> None:
    """For example, the limit of a partition is a minute, and the job has no time limit of its own."""
    began_s = time.monotonic()
    finish(place, "loop", {**JOB, "LEFT": "0:04"})
    assert time.monotonic() - began_s > 2


def test_refused_requeue_is_reported(place: Path) -> None:
    status, output = finish(place, "loop", {**JOB, "BROKEN": "1"}, signal.SIGUSR2)
    assert status == 1 and "launch it again to resume" in output
    assert last_end(place).how == "stopped" and "could not be requeued" in last_end(place).why


def test_number_of_restarts_is_limited(place: Path) -> None:
    status, _ = finish(place, "loop", {**JOB, "SLURM_RESTART_COUNT": "3"}, signal.SIGUSR2)
    assert status == 75 and "requeue" not in asked(place)
    assert last_end(place).how == "stopped" and "max_restarts=3" in last_end(place).why
    (place / "began").unlink()
    status, output = finish(place, "loop", {**JOB, "SLURM_RESTART_COUNT": "4"})
    assert status == 1 and "more than max_restarts=3" in output
    assert not (place / "began").exists(), "a node that fails again and again is not tried for ever"


def test_each_start_records_its_reason(place: Path) -> None:
    finish(place, "loop", JOB, signal.SIGUSR2)
    (place / "began").unlink()
    finish(place, "done", {**JOB, "SLURM_RESTART_COUNT": "1"})
    finish(place, "done", {**JOB, "SLURM_RESTART_COUNT": "3", "FORMER": "OUT_OF_MEMORY"})
    starts = [event for event in read_history(place / "run") if isinstance(event, Started)]
    assert [event.restarts for event in starts] == [0, 1, 3]
    assert [event.why for event in starts[:2]] == ["submitted", "the time limit was near"]
    assert starts[2].why.startswith("OUT_OF_MEMORY: the previous start recorded no end")


@pytest.mark.parametrize(
    ("number", "status", "how", "why"),
    [
        (signal.SIGTERM, 75, "stopped", "SIGTERM"),
        (signal.SIGUSR1, 0, "stopped", "trichord cancel"),
    ],
)
def test_other_signals_save_and_end_without_requeue(
    place: Path, number: signal.Signals, status: int, how: str, why: str
) -> None:
    assert finish(place, "loop", JOB, number)[0] == status
    assert "requeue" not in asked(place)
    ends = [event for event in read_history(place / "run") if isinstance(event, Ended)]
    assert len(ends) == 1 and ends[0].how == how and why in ends[0].why


def test_work_without_checkpoints_is_interrupted_and_requeued(place: Path) -> None:
    assert finish(place, "build", {**JOB, "LEFT": "1-00:00:00"}, signal.SIGUSR2)[0] == 0
    assert "requeue 5" in asked(place)


def test_local_controller_of_submitit_restarts_the_job(place: Path) -> None:
    job = {"SUBMITIT_LOCAL_JOB_ID": "77", "SUBMITIT_LOCAL_GLOBALID": "0"}
    assert finish(place, "loop", job, signal.SIGUSR2)[0] == 144
    (place / "began").unlink()
    assert finish(place, "done", job)[0] == 0
    starts = [event for event in read_history(place / "run") if isinstance(event, Started)]
    assert [(event.job_id, event.restarts) for event in starts] == [("77", 0), ("77", 1)]
