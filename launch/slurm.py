"""Query and control SLURM jobs through its commands, each with a timeout of ten seconds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from trichord.core.errors import UserError

PATIENCE_S = 10.0
_ARRAY = re.compile(r"(?P<array>\d+)_\[(?P<elements>[\d,:-]+)(%\d+)?\]")
_SPAN = re.compile(r"(?P<first>\d+)(-(?P<last>\d+)(:(?P<step>\d+))?)?")
_TIME = re.compile(r"((?P<days>\d+)-)?((?P<hours>\d+):)?(?P<minutes>\d+):(?P<seconds>\d+)")
_FIELD = re.compile(r"(?:^|\s)([A-Za-z][\w/:]*)=")
_WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"})
_RUNNING = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT"})


class NoAnswer(UserError):
    """A SLURM command that is missing, did not answer in time, or failed."""


@dataclass(frozen=True)
class JobState:
    """SLURM's answer about a job: its state as SLURM names it, such as RUNNING, TIMEOUT or NODE_FAIL."""

    job_id: str
    state: str
    reason: str = ""  # why it waits
    nodes: str = ""  # as SLURM lists them

    @property
    def is_waiting(self) -> bool:
        """Whether it is in the queue and does not run."""
        return self.state in _WAITING

    @property
    def is_running(self) -> bool:
        """Whether it holds its nodes, even if it is about to end."""
        return self.state in _RUNNING

    @property
    def is_live(self) -> bool:
        """Whether it runs or will run."""
        return self.is_waiting or self.is_running


def states(job_ids: Iterable[str], warn: Callable[[str], None] = lambda text: None) -> dict[str, JobState | None]:
    """Return the state of each job, None if SLURM does not know it (any more); raise NoAnswer.

    The controller knows live jobs and those that ended minutes ago, accounting knows all; if accounting does not
    answer, only a warning is given.
    """
    wanted = list(dict.fromkeys(job_ids))
    if not wanted:
        return {}
    found = {state.job_id: state for state in _from_queue(wanted)}
    missing = [job_id for job_id in wanted if job_id not in found]
    if missing:
        try:
            found |= {state.job_id: state for state in _from_accounting(missing)}
        except NoAnswer as error:
            warn(f"the end of jobs that are no longer in the queue is unknown: {error}")
    return {job_id: found.get(job_id) for job_id in wanted}


def seconds_left(job_id: str) -> float | None:
    """Return the seconds until a job's time limit, None if it has none; raise NoAnswer."""
    text = ask("squeue", "-h", "-r", "-j", job_id, "-o", "%L").strip()
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(found[name] or 0) for name in ("days", "hours", "minutes", "seconds"))
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def former_end(job_id: str) -> str | None:
    """Return SLURM's end state of a job's previous start, None if there is none; raise NoAnswer."""
    rows = ask("sacct", "-D", "-X", "-n", "-P", "-o", "State", "-j", job_id).split("\n")
    ended = [row.split()[0] for row in rows if row and row.split()[0] not in _WAITING - {"REQUEUED"} | _RUNNING]
    return ended[-1] if ended else None


def show(job_id: str) -> dict[str, str]:
    """Return all fields that the controller reports of a job, such as TimeLimit or Restarts; raise NoAnswer."""
    text = ask("scontrol", "show", "job", "-o", job_id).strip()
    names = list(_FIELD.finditer(text))
    ends = [name.start() for name in names[1:]] + [len(text)]
    return {name[1]: text[name.end() : end].strip() for name, end in zip(names, ends, strict=True)}


def cancel(job_id: str) -> None:
    """End a job or remove it from the queue; one that has ended already is no error. Raise NoAnswer."""
    ask("scancel", job_id)


def send_signal(job_id: str, name: str) -> None:
    """Send a signal, by its name without SIG, to the ranks of a running job; raise NoAnswer."""
    ask("scancel", f"--signal={name}", job_id)


def ask(command: str, *arguments: str) -> str:
    """Run one of SLURM's commands and return its output; raise NoAnswer."""
    path = shutil.which(command)
    if path is None:
        raise NoAnswer(f"{command} is not on PATH\nNext: load the cluster's SLURM module, or run this on a login node")
    # A user's settings for the output of these commands, such as SQUEUE_STATES, could hide jobs.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SQUEUE_", "SACCT_", "SCANCEL_"))}
    try:
        done = subprocess.run(
            [path, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S, env=kept
        )
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{command} did not answer within {PATIENCE_S:.0f} s") from None
    except OSError as error:
        raise NoAnswer(f"{command} cannot be run: {error}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise NoAnswer(f"{command}: {lines[-1].removeprefix(f'{command}: ')}")
    return done.stdout


def _from_queue(job_ids: list[str]) -> Iterator[JobState]:
    try:
        text = ask("squeue", "-h", "-r", "-t", "all", "-j", ",".join(job_ids), "-o", "%i|%T|%r|%N")
    except NoAnswer as error:
        if "Invalid job id specified" in str(error):  # its answer for a single job that it no longer knows
            return
        raise
    yield from _rows(text)


def _from_accounting(job_ids: list[str]) -> Iterator[JobState]:
    # Elements that have not started yet are listed only when the whole array is asked for.
    whole = dict.fromkeys(job_id.partition("_")[0] for job_id in job_ids)
    yield from _rows(ask("sacct", "-X", "-n", "-P", "-o", "JobID,State,Reason,NodeList", "-j", ",".join(whole)))


def _rows(text: str) -> Iterator[JobState]:
    for line in text.splitlines():
        cells = line.split("|")
        if len(cells) != 4 or not cells[1]:
            continue
        listed, state, reason, nodes = cells
        state = state.split()[0].rstrip("+")  # "CANCELLED by 0"
        reason = "" if reason == "None" else reason
        nodes = "" if nodes == "None assigned" else nodes
        for job_id in _elements(listed):
            yield JobState(job_id, state, reason, nodes)


def _elements(listed: str) -> Iterator[str]:
    """Yield the ids in `7`, `7_3` or `7_[1,4-9:2%2]`."""
    found = _ARRAY.fullmatch(listed)
    if found is None:
        yield listed
        return
    for span in filter(None, map(_SPAN.fullmatch, found["elements"].split(","))):
        first, last = int(span["first"]), int(span["last"] or span["first"])
        for number in range(first, last + 1, int(span["step"] or 1)):
            yield f"{found['array']}_{number}"
