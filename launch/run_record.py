"""Find run folders and read their history, last figures, errors, logs and lock, without torch."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from trichord.core.errors import UserError
from trichord.core.reading import mistake, open_regular, parse_json, read_bytes, reason
from trichord.core.run_folder import RunFolder
from trichord.launch.history import Count, Ended, Event, RankError, Started, Submitted, UnixTime, read_history
from trichord.launch.run_state import SILENT_S
from trichord.pretrain.engine.run_lock import Holder, read_holder

_MAX_DEPTH = 4
_MAX_ENTRIES = 20_000  # directory entries to search; a folder of a million clips must not delay the command
_TAIL_BYTES = 1 << 16
_LARGEST_ERROR = 1 << 20
_NAMES = RunFolder(Path())
_RUN_FILES = (_NAMES.history.name, _NAMES.metrics.name)  # files that mark the folder of a run
_SKIPPED_FOLDERS = {
    *(each.name for each in (_NAMES.checkpoints, _NAMES.failures, _NAMES.logs, _NAMES.snapshots)),
    "node_modules",
}
_LOG = re.compile(r"(?P<job>\w+?)_(?P<rank>[0-9]{1,9})_log\.out")
_CHECKPOINT = re.compile(r"step_\d{8}")
# Messages of ranks that lost contact with another; the rank that failed first has the cause.
_CONSEQUENCES = (
    "timed out waiting for the other ranks",
    "waited in vain for the others",  # in runs of earlier versions
    "onnection closed by peer",
    "onnection reset by peer",
    "NCCL",
    "Broken pipe",
)


class LastFigures(BaseModel):
    """The figures of a log step that describe the progress of a run."""

    step: Count
    steps: Annotated[int, Field(gt=0, le=1_000_000_000)] | None = None
    time_s: UnixTime | None = None
    eta_s: UnixTime | None = None
    clips_per_s: Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)] | None = None


@dataclass(frozen=True)
class RunRecord:
    """One run; what is read from its folder is read on first use and cached.

    What cannot be read counts as absent and is one of its `problems`.
    """

    path: Path
    _problems: list[str] = field(default_factory=list)

    @property
    def folder(self) -> RunFolder:
        """The paths in its folder."""
        return RunFolder(self.path)

    @cached_property
    def history(self) -> list[Event]:
        """All events, in order."""
        return read_history(self.path, self._problems.append)

    @cached_property
    def figures(self) -> LastFigures | None:
        """The last log step's figures."""
        return _last_figures(self.folder.metrics, self._problems.append)

    @cached_property
    def holder(self) -> Holder | None:
        """The process recorded in the folder's lock, whether alive or not."""
        return read_holder(self.path, self._problems.append)

    @cached_property
    def problems(self) -> list[str]:
        """What is wrong with the folder's files: each is named with the reason why it cannot be read."""
        _ = self.history, self.figures, self.holder
        try:
            open_regular(self.folder.config).close()
        except FileNotFoundError:
            pass
        except OSError as error:
            self._problems.append(f"{self.folder.config.name}: {reason(error)}")
        return self._problems

    @property
    def touched_s(self) -> float:
        """The time of the last write."""
        written = (self.folder.history, self.folder.metrics, self.folder.lock)
        return max((_touched_s(path) or 0.0 for path in written), default=0.0)

    @property
    def is_done(self) -> bool:
        """Whether the figures reach the last step."""
        figures = self.figures
        return figures is not None and figures.steps is not None and figures.step + 1 >= figures.steps

    @property
    def checkpoint(self) -> Path | None:
        """The newest finished checkpoint."""
        folder = self.folder.checkpoints
        names = [name for name in _names(folder) if _CHECKPOINT.fullmatch(name)]
        return folder / max(names) if names else None

    @property
    def job(self) -> str | None:
        """The job that the run now depends on; one started by hand is named by its process while it is alive."""
        is_manual = not self.history or self._continued_manually()
        if self.holder is not None:
            holder = name_of(self.holder)
            heartbeat_s = self.heartbeat_s(holder)
            if is_manual or (heartbeat_s is not None and heartbeat_s <= SILENT_S):
                return holder
        # Order by first event: an earlier job may have recorded its end after this one was submitted.
        return None if is_manual else list(dict.fromkeys(event.job_id for event in self.history))[-1]

    def _continued_manually(self) -> bool:
        last = self.history[-1]
        is_over = isinstance(last, Ended) and last.how != "requeued"
        logged_s = self.figures.time_s if self.figures else None
        return is_over and logged_s is not None and logged_s > last.time_s

    def events_of(self, job_id: str) -> list[Event]:
        """Return a job's events."""
        return [event for event in self.history if event.job_id == job_id]

    def submission(self, job_id: str) -> Submitted | None:
        """Return a job's submission, or None."""
        return next((event for event in self.events_of(job_id) if isinstance(event, Submitted)), None)

    def heartbeat_s(self, job_id: str) -> float | None:
        """Return the seconds since this start of the job touched the lock; infinite if its process has ended."""
        touched_s = _touched_s(self.folder.lock)
        if self.holder is None or touched_s is None or name_of(self.holder) != job_id:
            return None
        started = [event.time_s for event in self.history if event.job_id == job_id and isinstance(event, Started)]
        if started and touched_s < started[-1] - 1:
            return None  # left by an earlier start
        return math.inf if self.holder.is_gone() else max(0.0, time.time() - touched_s)

    def errors(self, job_id: str) -> list[RankError]:
        """Return the errors of ranks in the job's last start, the probable cause first."""
        began = [event.restarts for event in self.events_of(job_id) if isinstance(event, Started | Ended)]
        name = re.compile(re.escape(job_id) + r"_\d+_error\.json")
        found = []
        for path in (self.folder.logs / each for each in _names(self.folder.logs) if name.fullmatch(each)):
            try:
                found.append(RankError.model_validate_json(read_bytes(path, _LARGEST_ERROR)))
            except (OSError, ValidationError):
                continue
        present = [error for error in found if not began or error.restarts >= began[-1]]
        return sorted(present, key=lambda error: (any(word in error.message for word in _CONSEQUENCES), error.time_s))

    def logs(self) -> dict[str, dict[int, Path]]:
        """Return each job's logs by rank, the job that wrote last at the end; runs of a sweep share one folder."""
        found: dict[str, dict[int, Path]] = {}
        known = {event.job_id for event in self.history}
        folder = self.folder.logs
        for name in sorted(_names(folder), key=lambda name: _touched_s(folder / name) or 0.0):
            log = _LOG.fullmatch(name)
            if log and (log["job"] in known or not known):
                ranks = found.pop(log["job"], {})
                found[log["job"]] = {**ranks, int(log["rank"]): folder / name}
        return found


def name_of(holder: Holder) -> str:
    """Return the name of the job that holds a folder, as in its history."""
    return holder.job_id or f"process {holder.pid}"


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run's."""
    return any(os.path.lexists(folder / name) for name in _RUN_FILES)


def find_runs(*roots: Path) -> list[Path]:
    """Return the run folders below, newest first; search depth and number of entries are limited."""
    found = {path.absolute(): path for root in reversed(roots) for path in _search(root)}  # named from the nearest root
    return sorted(found.values(), key=lambda path: RunRecord(path).touched_s, reverse=True)


def named_runs(paths: Iterable[Path]) -> list[Path]:
    """Return the named runs, and for a sweep's folder those below it; raise UserError if there are none."""
    found: dict[Path, None] = {}
    for path in paths:
        below = ([path] if is_run(path) else []) + sorted(each for each in _search(path) if each != path)
        if not below:
            raise UserError(_no_run_message(path))
        found |= dict.fromkeys(below)
    return list(found)


def _no_run_message(path: Path) -> str:
    what = "holds no run" if path.is_dir() else "does not exist"
    above = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    names = {str(each): each for each in find_runs(Path("runs"), Path(), above)}
    near = difflib.get_close_matches(str(path), names, n=8, cutoff=0.3) or list(names)[:8]
    listed = "".join(f"\n  {name}" for name in near) or " none"
    return (
        f"{path} {what}: expected a folder with {' or '.join(_RUN_FILES)}, or one with such folders below.\n"
        f"Similar runs:{listed}\nNext: trichord status"
    )


def _search(root: Path) -> Iterator[Path]:
    waiting, entries, seen = deque([(root, 0)]), 0, set()
    while waiting and entries < _MAX_ENTRIES:
        folder, depth = waiting.popleft()
        try:
            place = folder.stat()
            children = [entry for _, entry in zip(range(_MAX_ENTRIES - entries), os.scandir(folder), strict=False)]
        except OSError:
            continue
        if (place.st_dev, place.st_ino) in seen:  # a link that forms a cycle
            continue
        seen.add((place.st_dev, place.st_ino))
        entries += len(children)
        if any(child.name in _RUN_FILES for child in children):
            yield folder
        for child in sorted(children, key=lambda entry: entry.name) if depth < _MAX_DEPTH else ():
            if child.name not in _SKIPPED_FOLDERS and not child.name.startswith((".", "__")) and _is_folder(child):
                waiting.append((folder / child.name, depth + 1))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _touched_s(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _last_figures(path: Path, report: Callable[[str], None]) -> LastFigures | None:
    """Read the last complete line from the end of the file, which may be long; report why it cannot be read."""
    try:
        with open_regular(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read(_TAIL_BYTES).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return None
    except OSError as error:
        report(f"{path.name}: {reason(error)}")
        return None
    for line in reversed(lines):
        try:
            return LastFigures.model_validate(parse_json(line))
        except json.JSONDecodeError:
            continue  # torn by a kill
        except ValidationError as error:
            report(f"{path.name}: {mistake(error)}")
        except ValueError as error:
            report(f"{path.name}: {reason(error)}")
        return None
    if size > _TAIL_BYTES:
        report(f"{path.name}: its last {_TAIL_BYTES >> 10} KiB hold no complete line")
    return None
