"""The file history.jsonl of a run's folder: when each job was submitted, started and ended, how and why.

The login node writes a line for each submission; rank 0 of a job writes one when it starts and one when it ends in an
orderly way. A job that was killed leaves no end; the next start records how it ended.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from trichord.core.reading import mistake, parse_json, read_bytes, reason
from trichord.core.run_folder import RunFolder

Cluster = Literal["slurm", "local", "debug"]
How = Literal["finished", "requeued", "stopped", "failed"]
UnixTime = Annotated[float, Field(ge=0, le=250_000_000_000, allow_inf_nan=False)]  # up to the last year of datetime
Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
FileName = Annotated[str, Field(pattern=r"^[^/\x00-\x1f]{1,200}$")]  # also part of one
_LARGEST_HISTORY = 4 << 20
_MOST_EVENTS = 5000


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True)  # a later version may write more

    time_s: UnixTime
    job_id: FileName  # the cluster's id, "123_4" in an array; for a local job the controller's process id


class Submitted(_Event):
    """A job was submitted."""

    event: Literal["submitted"] = "submitted"
    cluster: Cluster
    host: str  # on which the command was run
    snapshot: FileName  # the folder's name below snapshots/
    words: Annotated[tuple[str, ...], Field(min_length=1)]  # the command line after `launch` and its options
    nodes: Count
    ranks: Count


class Started(_Event):
    """Rank 0 started, for the first time or again."""

    event: Literal["started"] = "started"
    restarts: Count  # how often this job started before
    why: str  # reason of this start: "submitted", or how the previous start ended
    nodes: str  # as SLURM lists them, or the host's name
    pid: int


class Ended(_Event):
    """Rank 0 ended and could record it."""

    event: Literal["ended"] = "ended"
    restarts: Count
    how: How
    why: str = ""


Event = Submitted | Started | Ended
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])
_KINDS = tuple(each.model_fields["event"].default for each in (Submitted, Started, Ended))


def write_event(run: Path, event: Event) -> None:
    """Append a line and sync it to disk before returning, because the job may be killed next."""
    line = (event.model_dump_json() + "\n").encode()
    descriptor = os.open(RunFolder(run).history, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, b"\n" * is_torn + line)  # a torn last line would otherwise absorb this one
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_history(run: Path, report: Callable[[str], None] = lambda _: None) -> list[Event]:
    """Return all events in order; a line torn by a kill is skipped, what cannot be read is reported.

    A job can start before its submission is written: the submission is moved before the job's own events. A start whose
    node lost contact may end after the job was restarted elsewhere: its events are moved before those of the later
    start. Events are not ordered by time, because the clocks of nodes differ.
    """
    found = list[Event]()
    for event in _events(RunFolder(run).history, report):
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
    """Return the index at which a submission belongs; process ids, which identify local jobs, can recur."""
    place = len(found)
    while place and found[place - 1].job_id == submitted.job_id:
        place -= 1
    return len(found) if any(isinstance(event, Submitted) for event in found[place:]) else place


def now_s() -> float:
    """Return the current time for an event, in seconds rounded to milliseconds."""
    return round(time.time(), 3)


def _events(path: Path, report: Callable[[str], None]) -> Iterator[Event]:
    try:
        lines = read_bytes(path, _LARGEST_HISTORY).decode(errors="replace").split("\n")
    except FileNotFoundError:
        return
    except OSError as error:
        report(f"{path.name}: {reason(error)}")
        return
    if len(lines) > _MOST_EVENTS:
        report(f"{path.name}: it has {len(lines):,} lines, expected at most {_MOST_EVENTS:,}")
        return
    for number, line in enumerate(lines, 1):
        try:
            found = parse_json(line)
            if not isinstance(found, dict) or found.get("event") in _KINDS:
                yield _EVENT.validate_python(found)
        except json.JSONDecodeError:
            continue
        except ValidationError as error:
            report(f"{path.name}, line {number}: {mistake(error)}")
        except ValueError as error:
            report(f"{path.name}, line {number}: {reason(error)}")


class RankError(BaseModel):
    """How one rank failed, in a file per rank: ranks on several nodes cannot share one."""

    model_config = ConfigDict(frozen=True)

    time_s: UnixTime
    rank: Count
    restarts: Count
    message: str  # the last line of the traceback, or the message of a UserError
    traceback: str = ""  # empty where the message is enough


def error_path(run: Path, job_id: str, rank: int) -> Path:
    """Return the path of the file that records how a rank of a job failed, next to the rank's log."""
    return RunFolder(run).logs / f"{job_id}_{rank}_error.json"


def log_path(run: Path, job_id: str, rank: int) -> Path:
    """Return the path of a rank's log, named as by submitit."""
    return RunFolder(run).logs / f"{job_id}_{rank}_log.out"
