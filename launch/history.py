"""The file history.jsonl of a run's folder: when it was submitted, started and ended, how and why, job by job.

The login node writes a line for each submission, rank 0 of a job one when it starts and one when it ends in good order.
A job that was killed leaves no end; the next start says what became of it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from trichord.core.run_folder import RunFolder

Cluster = Literal["slurm", "local", "debug"]
How = Literal["finished", "requeued", "stopped", "failed"]


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True)  # a later version may write more

    time_s: float
    job_id: str  # as the cluster names it; of an array "123_4"; on one machine the controller's process id


class Submitted(_Event):
    """A job was handed over."""

    event: Literal["submitted"] = "submitted"
    cluster: Cluster
    host: str  # where it was typed
    snapshot: str  # the folder's name below snapshots/
    words: tuple[str, ...]  # as they were typed after `launch` and its options
    nodes: int
    ranks: int


class Started(_Event):
    """Rank 0 began, for the first time or again."""

    event: Literal["started"] = "started"
    restarts: int  # how often this job began before
    why: str  # it began: "submitted", or how the start before ended
    nodes: str  # as SLURM lists them, or the host's name
    pid: int


class Ended(_Event):
    """Rank 0 came to an end that it could tell of."""

    event: Literal["ended"] = "ended"
    restarts: int
    how: How
    why: str = ""


Event = Submitted | Started | Ended
_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def write_event(run: Path, event: Event) -> None:
    """Add a line; it is on the disk when this returns, for the job may be killed next."""
    line = (event.model_dump_json() + "\n").encode()
    descriptor = os.open(RunFolder(run).history, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, b"\n" * is_torn + line)  # which a torn line before it would swallow
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_history(run: Path) -> list[Event]:
    """Give all events in order; a line that a kill tore is passed over.

    A job can be quicker to start than its submission is to be written down: that goes before what the job told. A start
    whose node lost touch may end after the job began anew elsewhere: what it tells goes before that. Times do not order
    them, for the clocks of nodes differ.
    """
    path, found = RunFolder(run).history, list[Event]()
    for event in _events(path) if path.exists() else ():
        place = _place(event, found) if isinstance(event, Submitted) else _place_of_start(event, found)
        found.insert(place, event)
    return found


def _place_of_start(event: Started | Ended, found: list[Event]) -> int:
    """Return where an event of a start belongs: before the events of the job's later starts since its submission."""
    place = len(found)
    for at in reversed(range(len(found))):
        each = found[at]
        if each.job_id == event.job_id:
            if isinstance(each, Submitted) or each.restarts <= event.restarts:
                break
            place = at
    return place


def _place(submitted: Submitted, found: list[Event]) -> int:
    """Say before which event a submission goes; the numbers of processes, by which local jobs go, come round again."""
    place = len(found)
    while place and found[place - 1].job_id == submitted.job_id:
        place -= 1
    return len(found) if any(isinstance(event, Submitted) for event in found[place:]) else place


def now_s() -> float:
    """Give the time of an event."""
    return round(time.time(), 3)


def _events(path: Path) -> Iterator[Event]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                yield _EVENT.validate_python(json.loads(line))
            except (ValueError, ValidationError):
                continue


class RankError(BaseModel):
    """How one rank failed, in a file of its own: ranks on many nodes cannot share one."""

    model_config = ConfigDict(frozen=True)

    time_s: float
    rank: int
    restarts: int
    message: str  # the last line, or what a mistake was worded as
    traceback: str = ""  # none where the message is for people


def error_path(run: Path, job_id: str, rank: int) -> Path:
    """Name the file that tells how a rank of a job failed; it stands beside the rank's log."""
    return RunFolder(run).logs / f"{job_id}_{rank}_error.json"


def log_path(run: Path, job_id: str, rank: int) -> Path:
    """Name the log of a rank, as submitit does."""
    return RunFolder(run).logs / f"{job_id}_{rank}_log.out"
