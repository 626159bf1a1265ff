"""The lock of a run folder: one job at a time writes; a dead holder is replaced, a live one is named."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.warm import HANGS_AFTER_S
from trichord.core.errors import UserError
from trichord.core.run_folder import RunFolder
from trichord.pretrain.engine import run_lock
from trichord.pretrain.engine.run_lock import Holder, read_holder, take_lock, this_job

HOLD = """
import sys, time
from pathlib import Path
from trichord.pretrain.engine import run_lock
run_lock.BEAT_S = 0.05
with run_lock.take_lock(Path(sys.argv[1])) as lock:
    print("held", flush=True)
    while not lock.is_lost:
        time.sleep(0.01)
print("lost", flush=True)
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "BEAT_S", 0.05)
    monkeypatch.setattr(run_lock, "SILENT_S", 1.0)
    monkeypatch.setattr(run_lock, "_SETTLE_S", 0.02)
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SUBMITIT_LOCAL_JOB_ID"):
        monkeypatch.delenv(name, raising=False)


def holding(run: Path, **environment: str) -> subprocess.Popen[str]:
    """Start another process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def pretend_elsewhere(run: Path, **changes: object) -> Holder:
    """Rewrite the lock as one of another machine, about which only the file is known."""
    holder = json.loads(RunFolder(run).lock.read_text()) | {"host": "elsewhere", "machine": "another boot"} | changes
    RunFolder(run).lock.write_text(json.dumps(holder))
    return Holder.model_validate(holder)


def test_lock_exists_while_held(tmp_path: Path) -> None:
    with take_lock(tmp_path / "run"):
        holder = read_holder(tmp_path / "run")
        assert holder is not None and holder.pid == os.getpid()
    assert [path.name for path in (tmp_path / "run").iterdir()] == []


def test_second_process_is_refused_with_the_job_of_the_first(tmp_path: Path) -> None:
    first = holding(tmp_path, SLURM_JOB_ID="4711")
    try:
        with pytest.raises(UserError, match=rf"in use by job 4711, process {first.pid} on "):
            take_lock(tmp_path)
        assert read_holder(tmp_path) is not None
        assert not list(tmp_path.glob(".lock*")), "what was tried is cleared away"
    finally:
        first.kill()
        first.wait()


def test_killed_local_holder_is_replaced_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "SILENT_S", 1000.0)
    first = holding(tmp_path)
    first.send_signal(signal.SIGKILL)
    first.wait()
    messages: list[str] = []
    with take_lock(tmp_path, messages.append):
        assert "which is gone" in messages[0]


def test_files_of_contenders_that_died_are_deleted(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        run_lock.os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[attr-defined,assignment]
        take_lock(tmp_path)
    os.waitpid(child, 0)
    (left,) = tmp_path.iterdir()
    left.write_bytes(left.read_bytes()[:5])  # it may have died while writing
    alive = tmp_path / left.name.replace(f"-{child}-", f"-{os.getpid()}-")
    elsewhere = tmp_path / ".lock.0123456789ab-1-token"
    alive.touch(), elsewhere.touch()
    with take_lock(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {"lock", alive.name, elsewhere.name}
    os.utime(elsewhere, (0, 0))
    with take_lock(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {"lock", alive.name}


def test_reused_process_id_is_another_process(tmp_path: Path) -> None:
    first = holding(tmp_path)
    first.send_signal(signal.SIGKILL)
    first.wait()
    holder = json.loads(RunFolder(tmp_path).lock.read_text())
    RunFolder(tmp_path).lock.write_text(json.dumps(holder | {"pid": os.getpid()}))  # alive, but not the holder
    with take_lock(tmp_path):
        pass


def test_holder_before_a_reboot_is_replaced(tmp_path: Path) -> None:
    with take_lock(tmp_path):
        holder = json.loads(RunFolder(tmp_path).lock.read_text())
    RunFolder(tmp_path).lock.write_text(json.dumps(holder | {"machine": "an-earlier-boot pid:[1]"}))
    with take_lock(tmp_path):
        pass


def test_remote_holder_is_watched_until_it_beats_or_stays_silent(tmp_path: Path) -> None:
    first = holding(tmp_path)
    first.send_signal(signal.SIGSTOP)
    try:
        pretend_elsewhere(tmp_path, job_id="12")
        began_s = time.monotonic()
        messages: list[str] = []
        with take_lock(tmp_path, messages.append):
            assert time.monotonic() - began_s > 0.9
            assert "job 12" in messages[0] and "silent" in messages[0]
    finally:
        first.kill()
        first.wait()


def test_remote_holder_that_beats_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "SILENT_S", 1000.0)
    first = holding(tmp_path)
    try:
        pretend_elsewhere(tmp_path, job_id="12")
        with pytest.raises(UserError, match=r"in use by job 12, process .* on elsewhere"):
            take_lock(tmp_path)
    finally:
        first.kill()
        first.wait()


def test_later_start_of_the_same_job_takes_over_and_the_earlier_one_notices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "SILENT_S", 1000.0)
    first = holding(tmp_path, SLURM_JOB_ID="7")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(UserError, match="in use by job 7"):
        take_lock(tmp_path)  # the same start: two steps of one job
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with take_lock(tmp_path):
        output, _ = first.communicate(timeout=HANGS_AFTER_S)
        assert output == "lost\n"
        holder = read_holder(tmp_path)
        assert holder is not None and holder.pid == os.getpid(), "the one that lost it left it alone"


def test_exactly_one_of_many_contenders_replaces_a_dead_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "_SETTLE_S", 2.0)  # longer than a busy machine keeps a process from running
    monkeypatch.setattr(run_lock, "SILENT_S", 100.0)  # always longer than that, or contenders would take turns
    first = holding(tmp_path)
    first.send_signal(signal.SIGKILL)
    first.wait()
    context = multiprocessing.get_context("fork")
    results, over = context.Queue(), context.Event()

    def contend() -> None:
        try:
            with take_lock(tmp_path):
                results.put("held")
                over.wait(HANGS_AFTER_S)
        except UserError:
            results.put("refused")

    processes = [context.Process(target=contend) for _ in range(6)]
    for process in processes:
        process.start()
    found = sorted(results.get(timeout=HANGS_AFTER_S) for _ in processes)
    over.set()
    for process in processes:
        process.join()
    assert found == ["held"] + ["refused"] * 5


def test_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"):
        take_lock(tmp_path / "file")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (None, 0)),
        ({"SLURM_JOB_ID": "5"}, ("5", 0)),
        ({"SLURM_JOB_ID": "5", "SLURM_RESTART_COUNT": "3"}, ("5", 3)),
        ({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"}, ("5_2", 0)),
        ({"SUBMITIT_LOCAL_JOB_ID": "77"}, ("77", 0)),
    ],
)
def test_job_id_and_restart_count_come_from_the_environment(
    environment: dict[str, str], expected: tuple[str, int]
) -> None:
    assert this_job(environment) == expected
