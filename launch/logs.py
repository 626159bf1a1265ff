"""`trichord logs`: print the end of a rank's log, or follow it."""

from __future__ import annotations

import codecs
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from trichord.core.command import command_line
from trichord.core.console import printable
from trichord.core.errors import UserError
from trichord.core.reading import open_regular, reason
from trichord.launch.history import log_path
from trichord.launch.run_record import RunRecord, is_run, named_runs
from trichord.launch.run_state import LIVE
from trichord.launch.survey import RunStatus, survey

_LOOK_EVERY_S = 0.2
_ASK_EVERY_S = 5.0  # how often to ask whether the job still runs; SLURM serves other users too
_CHUNK = 1 << 16
_LONGEST_END = 1 << 20  # bytes of the last lines; progress bars may be one line of gigabytes


def run_logs(arguments: Namespace) -> int:
    """Show the log that parsed arguments select."""
    show_log(arguments.run_folder, arguments.rank, arguments.job, arguments.lines, arguments.follow)
    return 0


def show_log(path: Path, rank: int, job_id: str | None, lines: int, follow: bool) -> None:
    """Print the end of a log and, with `follow`, everything written until the job ends."""
    if not is_run(path):
        below = named_runs([path])
        raise UserError(f"{path} holds several runs. Name one:" + "".join(f"\n  {each}" for each in below))
    report = _survey_one(path)
    is_live = report.verdict.state in LIVE and job_id in (None, report.job_id)
    log = _choose(report.run, rank, job_id or (report.job_id if is_live else None), waits=follow and is_live)
    if not log.exists():
        print(printable(f"waiting for {log}; {_state_line(report)}"), file=sys.stderr)

    def is_running() -> bool:
        nonlocal report
        report = _survey_one(path)
        return report.verdict.state in LIVE

    for text in follow_log(log, lines, is_running if follow and is_live else lambda: False):
        sys.stdout.write(printable(text))
        sys.stdout.flush()
    if follow and is_live:
        print(printable(_state_line(report)), file=sys.stderr)


def follow_log(log: Path, lines: int, goes_on: Callable[[], bool], ask_every_s: float = _ASK_EVERY_S) -> Iterator[str]:
    """Yield the last lines of a file, which may not exist yet, and then what is added while `goes_on()` is true."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    position = None if log.exists() else 0  # of a file created later, everything is new
    is_live, asked_s = goes_on(), time.monotonic()
    while True:
        added, position = _added(log, position, lines)
        if added:
            yield decoder.decode(added)
            continue
        if not is_live:  # everything written before the end has been read
            return
        time.sleep(_LOOK_EVERY_S)
        if time.monotonic() - asked_s >= ask_every_s:
            is_live, asked_s = goes_on(), time.monotonic()


def _added(log: Path, position: int | None, lines: int) -> tuple[bytes, int | None]:
    """Read what was added after a position; reopen the file each time, because NFS shows new data only then."""
    try:
        with open_regular(log) as file:
            size = file.seek(0, os.SEEK_END)
            if position is None:
                position = _start_of_last(file, size, lines)
            elif size < position:
                position = 0  # the file was truncated
            file.seek(position)
            found = file.read(_CHUNK)
    except FileNotFoundError:
        return b"", position
    except OSError as error:
        raise UserError(f"{log} cannot be read: {reason(error)}") from error
    return found, position + len(found)


def _start_of_last(file: BinaryIO, size: int, lines: int) -> int:
    """Return the offset of the last lines, searching backwards from the end because logs can be long."""
    if not lines:
        return size
    begins, missing = size, lines + 1  # the line feed before them belongs to the line above
    file.seek(max(0, size - 1))
    missing -= file.read(1) != b"\n"
    least = max(0, size - _LONGEST_END)
    while begins > least:
        begins, ends = max(least, begins - _CHUNK), begins
        file.seek(begins)
        chunk = file.read(ends - begins)
        while missing and (found := chunk.rfind(b"\n")) >= 0:
            chunk, missing = chunk[:found], missing - 1
        if not missing:
            return begins + len(chunk) + 1
    return least


def _choose(run: RunRecord, rank: int, job_id: str | None, waits: bool) -> Path:
    logs = run.logs()
    if job_id is None and logs:
        job_id = list(logs)[-1]
    ranks = logs.get(job_id or "", {})
    if rank in ranks:
        return ranks[rank]
    if ranks:
        raise UserError(f"job {job_id} has no log of rank {rank}. Its ranks: {_spans(sorted(ranks))}")
    if waits and job_id:
        return _expected_log(run, job_id, rank)
    others = ""
    if logs:
        newest = command_line("logs", run.path, "--job", list(logs)[-1])
        others = f" There are logs of: {', '.join(logs)}. Next: {newest}"
    if job_id is not None and (others or run.events_of(job_id)):
        follow = command_line("logs", run.path, "--follow")
        wait = "" if others else f"\nNext: {follow}, which waits for it; or trichord status"
        raise UserError(f"job {job_id} of {run.path} has written no log in {run.folder.logs}.{others}{wait}")
    raise UserError(
        f"{run.path} has no logs: it was not started by `trichord launch`, whose jobs keep them in {run.folder.logs}. "
        f"Its output went to its terminal.\nNext: {command_line('status', run.path)}"
    )


def _expected_log(run: RunRecord, job_id: str, rank: int) -> Path:
    submitted = run.submission(job_id)
    if submitted is not None and rank >= submitted.ranks:
        raise UserError(f"job {job_id} has no rank {rank}. Its ranks: {_spans(range(submitted.ranks))}")
    return log_path(run.path, job_id, rank)


def _spans(ranks: Sequence[int]) -> str:
    is_whole = ranks[-1] - ranks[0] + 1 == len(ranks) > 2
    return f"{ranks[0]} to {ranks[-1]}" if is_whole else ", ".join(map(str, ranks))


def _survey_one(path: Path) -> RunStatus:
    return survey([path], lambda text: print(f"warning: {printable(text)}", file=sys.stderr))[0]


def _state_line(report: RunStatus) -> str:
    why = f": {report.verdict.why}" if report.verdict.why else ""
    return f"{report.run.path} is {report.verdict.state}{why}"
