"""The file `lock` of a run's folder: only one job at a time writes there, and a dead holder does not block others.

The holder touches the file every few seconds. It is dead if its process no longer exists on this machine, or if it has
not touched the file for long by the disk's own clock, so that clocks of nodes need not be synchronised. A job that the
cluster restarts takes over from its earlier start, which a disconnected node may still be running: the earlier start
notices at its next heartbeat or save and writes nothing more. File system locks are not used: they are unreliable over
NFS.
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
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trichord.core.command import command_line
from trichord.core.errors import UserError
from trichord.core.machine import boot_and_namespace, is_dead, machine_digest, start_of
from trichord.core.reading import mistake, read_bytes, reason
from trichord.core.run_folder import RunFolder

BEAT_S = 5.0
SILENT_S = 4 * BEAT_S
_LARGEST_LOCK = 1 << 16
_SETTLE_S = 1.0  # wait after taking over: if two processes do so at once, the later one's name remains


class Holder(BaseModel):
    """The process that holds a run's folder."""

    model_config = ConfigDict(frozen=True)

    token: str
    job_id: str | None  # of a cluster job
    restarts: int
    host: str
    machine: str  # identifies the boot and the PID namespace
    pid: Annotated[int, Field(ge=0, lt=1 << 31)]
    started: str  # start time of the process, in the kernel's units

    @property
    def words(self) -> str:
        """A description for messages."""
        job = f"job {self.job_id}, " if self.job_id else ""
        return f"{job}process {self.pid} on {self.host}"

    def is_gone(self) -> bool:
        """Return whether it is certainly dead: it ran on this machine and no longer does."""
        here = boot_and_namespace()
        if self.host != socket.gethostname() or not here:
            return False
        if self.machine.partition(" ")[0] != here.partition(" ")[0]:
            return True  # the machine was rebooted
        return self.machine == here and start_of(self.pid) != self.started


class RunLock:
    """The lock on a run's folder, held until the context exits or a later start of the same job takes it."""

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
        """Raise OSError if the lock on disk belongs to another process; call it right before writing.

        A write right after it is safe: a later start waits for two heartbeats before it continues.
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
            except OSError:  # a disk error now may be gone at the next heartbeat
                continue


def take_lock(run: Path, report: Callable[[str], None] = lambda _: None) -> RunLock:
    """Take the lock of a run's folder, or raise UserError naming its holder. Waits if the holder may just have died."""
    path, mine = RunFolder(run).lock, _myself()
    fresh = path.with_name(f".{path.name}.{machine_digest()}-{mine.pid}-{mine.token}")
    try:
        run.mkdir(parents=True, exist_ok=True)
        while True:
            fresh.write_text(mine.model_dump_json() + "\n")
            try:
                os.link(fresh, path)  # fails if the lock exists, over NFS too
                _clear_after_the_dead(path, fresh)
                return RunLock(path, mine)
            except FileExistsError:
                settle_s = _wait_for_turn(path, mine, fresh, report)
            if settle_s is not None:
                os.replace(fresh, path)
                time.sleep(settle_s)
                if _is_of(path, mine):
                    _clear_after_the_dead(path, path)
                    return RunLock(path, mine)
    except OSError as error:
        raise UserError(f"{run} cannot be written to: {error}. Next: use a folder with write permission.") from error
    finally:
        with suppress(OSError):
            fresh.unlink()


def _clear_after_the_dead(path: Path, just_written: Path) -> None:
    """Delete what processes left that died while they waited for the lock: those that live touch theirs."""
    now_s = just_written.stat().st_mtime
    for other in path.parent.glob(f".{path.name}.*-[0-9]*-*"):
        machine, pid, _ = other.name.rpartition(".")[2].split("-", 2)
        with suppress(FileNotFoundError):
            if is_dead(machine, int(pid)) or now_s - other.stat().st_mtime > SILENT_S:
                other.unlink()


def read_holder(run: Path, report: Callable[[str], None] | None = None) -> Holder | None:
    """Return the holder of a run's folder, alive or dead, or None.

    If the lock cannot be read, raise OSError, or with `report` call it with the reason.
    """
    path = RunFolder(run).lock
    try:
        content = read_bytes(path, _LARGEST_LOCK)
        return Holder.model_validate_json(content)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        if report and content:  # an empty lock is what a crash of the machine leaves
            report(f"{path.name}: {mistake(error)}")
        return None
    except OSError as error:
        if report is None:
            raise
        report(f"{path.name}: {reason(error)}")
        return None


def this_job(environment: Mapping[str, str] = os.environ) -> tuple[str | None, int]:
    """Return the id of the cluster job of this process, and the number of its earlier starts."""
    if "SLURM_JOB_ID" in environment:
        array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
        job_id = f"{array}_{task}" if array and task else environment["SLURM_JOB_ID"]
        return job_id, int(environment.get("SLURM_RESTART_COUNT", 0))
    return environment.get("SUBMITIT_LOCAL_JOB_ID"), 0


def _wait_for_turn(path: Path, mine: Holder, fresh: Path, report: Callable[[str], None]) -> float | None:
    """Return the seconds to wait after replacing the lock, None if it is gone; raise UserError if its holder lives."""
    holder, seen_s = read_holder(path.parent), _touched_at_s(path)
    if seen_s is None:
        return None
    if holder is None:
        report(f"taking over {path}: its content cannot be read")
        return _SETTLE_S
    if holder.is_gone():
        report(f"taking over {path} from {holder.words}, which is gone")
        return _SETTLE_S
    if mine.job_id is not None and holder.job_id == mine.job_id and holder.restarts < mine.restarts:
        report(f"taking over {path} from an earlier start of this job, {holder.words}")
        return 2 * BEAT_S  # by then the earlier start, if alive, has noticed
    while True:
        os.utime(fresh)
        age_s = fresh.stat().st_mtime - seen_s
        if age_s > SILENT_S:
            report(f"taking over {path} from {holder.words}, silent for {age_s:.0f} s")
            return _SETTLE_S
        time.sleep(BEAT_S / 10)
        now_s = _touched_at_s(path)
        if now_s is None:
            return None
        if now_s != seen_s:
            raise UserError(
                f"{path.parent} is in use by {holder.words}. Wait until it ends, cancel it "
                f"({command_line('cancel', path.parent)}), or use another folder."
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
        machine=boot_and_namespace(),
        pid=os.getpid(),
        started=start_of(os.getpid()),
    )
