"""The file `lock` of a run's folder: one job at a time writes there, and one that died is not waited for.

The holder touches the file every few seconds. It is dead when its process is gone from this machine, or when it has
been silent for long by the disk's own clock, which needs no agreement between the clocks of nodes. A job that the
cluster starts again takes over from its former start, which a node that lost touch may still be running: that one finds
out at its next beat or save, and writes nothing more. No locks of the file system are used: over NFS they hold when it
pleases.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from trichord.core.errors import UserError
from trichord.core.run_folder import RunFolder

BEAT_S = 5.0
SILENT_S = 4 * BEAT_S
_SETTLE_S = 1.0  # after taking over: of two that do so at once, the later one's name stands


class Holder(BaseModel):
    """Who holds a run's folder."""

    model_config = ConfigDict(frozen=True)

    token: str
    job_id: str | None  # of a cluster's job
    restarts: int
    host: str
    machine: str  # its start and the processes that can be seen from there
    pid: int
    started: str  # when the process began, as the kernel counts

    @property
    def words(self) -> str:
        """Name it to people."""
        job = f"job {self.job_id}, " if self.job_id else ""
        return f"{job}process {self.pid} on {self.host}"

    def is_gone(self) -> bool:
        """Say whether it is certainly dead: it ran on this machine, and does not any more."""
        here = _machine()
        if self.host != socket.gethostname() or not here:
            return False
        if self.machine.partition(" ")[0] != here.partition(" ")[0]:
            return True  # the machine was started anew
        return self.machine == here and _start_of(self.pid) != self.started


class RunLock:
    """Holds a run's folder for this process until it is left, or lost to a later start of the same job."""

    def __init__(self, path: Path, mine: Holder) -> None:
        self._path, self._mine = path, mine
        self.is_lost = False
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="run lock", daemon=True)
        self._thread.start()

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()
        if not self.is_lost and _is_of(self._path, self._mine):
            self._path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise OSError where the disk says now that the folder is another's: for what may not be written then.

        What is written right after is in time: a later start waits for two beats before it goes on.
        """
        self.is_lost = self.is_lost or not _is_of(self._path, self._mine)
        if self.is_lost:
            raise OSError(f"{self._path.parent} belongs to a later start of this job")

    def _beat(self) -> None:
        while not self._left.wait(BEAT_S):
            try:
                if not _is_of(self._path, self._mine):
                    self.is_lost = True
                    return
                os.utime(self._path)
            except OSError:  # a disk that does not answer now may do so at the next beat
                continue


def take_lock(run: Path, say: Callable[[str], None] = lambda _: None) -> RunLock:
    """Hold a run's folder, or raise UserError naming who does. Waits where the holder may have died just now."""
    path, mine = RunFolder(run).lock, _myself()
    fresh = path.with_name(f".{path.name}.{mine.token}")
    try:
        run.mkdir(parents=True, exist_ok=True)
        while True:
            fresh.write_text(mine.model_dump_json() + "\n")
            try:
                os.link(fresh, path)  # fails where one is there, over NFS too
                return RunLock(path, mine)
            except FileExistsError:
                settle_s = _wait_for_turn(path, mine, fresh, say)
            if settle_s is not None:
                os.replace(fresh, path)
                time.sleep(settle_s)
                if _is_of(path, mine):
                    return RunLock(path, mine)
    except OSError as error:
        raise UserError(f"{run} cannot be written to: {error}. Next: take a folder that you may write to.") from error
    finally:
        with suppress(OSError):
            fresh.unlink()


def read_holder(run: Path) -> Holder | None:
    """Say who holds a run's folder, dead or alive."""
    try:
        return Holder.model_validate_json(RunFolder(run).lock.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def this_job(environment: Mapping[str, str] = os.environ) -> tuple[str | None, int]:
    """Give the id of the cluster's job that this process is part of, and how often it was started before."""
    if "SLURM_JOB_ID" in environment:
        array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
        job_id = f"{array}_{task}" if array and task else environment["SLURM_JOB_ID"]
        return job_id, int(environment.get("SLURM_RESTART_COUNT", 0))
    return environment.get("SUBMITIT_LOCAL_JOB_ID"), 0


def _wait_for_turn(path: Path, mine: Holder, fresh: Path, say: Callable[[str], None]) -> float | None:
    """Give the seconds to wait after replacing the lock, None where it is gone; raise UserError if its holder lives."""
    holder, seen_s = read_holder(path.parent), _touched_at_s(path)
    if seen_s is None:
        return None
    if holder is None:
        say(f"taking {path} over: what it says cannot be read")
        return _SETTLE_S
    if holder.is_gone():
        say(f"taking {path} over from {holder.words}, which is gone")
        return _SETTLE_S
    if mine.job_id is not None and holder.job_id == mine.job_id and holder.restarts < mine.restarts:
        say(f"taking {path} over from an earlier start of this job, {holder.words}")
        return 2 * BEAT_S  # by then that one, if it lives, has seen it
    while True:
        os.utime(fresh)
        age_s = fresh.stat().st_mtime - seen_s
        if age_s > SILENT_S:
            say(f"taking {path} over from {holder.words}, silent for {age_s:.0f} s")
            return _SETTLE_S
        time.sleep(BEAT_S / 10)
        now_s = _touched_at_s(path)
        if now_s is None:
            return None
        if now_s != seen_s:
            raise UserError(
                f"{path.parent} is in use by {holder.words}. Wait for it, or end it "
                f"(trichord cancel {path.parent}), or take another folder."
            )


def _is_of(path: Path, mine: Holder) -> bool:
    holder = read_holder(path.parent)
    return holder is not None and holder.token == mine.token


def _touched_at_s(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def _myself() -> Holder:
    job_id, restarts = this_job()
    return Holder(
        token=secrets.token_hex(8),
        job_id=job_id,
        restarts=restarts,
        host=socket.gethostname(),
        machine=_machine(),
        pid=os.getpid(),
        started=_start_of(os.getpid()),
    )


def _machine() -> str:
    """Name this start of this machine, and which processes can be seen: containers have their own numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux: then silence alone tells
        return ""


def _start_of(pid: int) -> str:
    """Give when a process began, or nothing where there is none; numbers of processes come round again."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
