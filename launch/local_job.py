"""Jobs of submitit's local executor: find the process that controls a job's ranks, and end it."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

from trichord.core.run_folder import RunFolder
from trichord.launch.history import Submitted
from trichord.launch.slurm import JobState

_CONTROLLER = b"submitit.local._local"  # the module that the controller runs
_SLACK_S = 2.0  # the kernel's start times are rounded
_TIMEOUT_S = 10.0


def is_here(submitted: Submitted) -> bool:
    """Return whether the job's processes are visible from this machine."""
    return submitted.host == socket.gethostname() and Path("/proc/self/stat").exists()


def state(submitted: Submitted, run: Path) -> JobState | None:
    """Return the state of a job on this machine, or None if it has ended."""
    found = controller(submitted, run)
    return None if found is None else JobState(submitted.job_id, "RUNNING", nodes=submitted.host)


def controller(submitted: Submitted, run: Path) -> int | None:
    """Return the id of the process that controls the job's ranks, or None if it has ended.

    A process id alone is no proof, because ids are reused: the process must be submitit's, belong to this run, and be
    as old as the job.
    """
    if not submitted.job_id.isdecimal():
        return None
    pid = int(submitted.job_id)
    began_s, words = _began_s(pid), _words(pid)
    is_old_enough = began_s is not None and began_s <= submitted.time_s + _SLACK_S
    folders = [Path(os.fsdecode(word)).resolve() for word in words if word.startswith(b"/")]
    is_its_own = _CONTROLLER in words and RunFolder(run).logs.resolve() in folders
    return pid if is_old_enough and is_its_own else None


def ask_to_stop(pid: int) -> None:
    """Ask the ranks to save and end: the controller forwards the signal."""
    os.kill(pid, signal.SIGTERM)


def end(pid: int, patience_s: float = _TIMEOUT_S) -> None:
    """End the ranks and their controller with SIGTERM, then with SIGKILL those still alive after `patience_s`."""
    processes = {each: _began_s(each) for each in (*_children(pid), pid)}
    ask_to_stop(pid)
    until_s = time.monotonic() + patience_s
    while time.monotonic() < until_s and any(_is_alive(each, began_s) for each, began_s in processes.items()):
        time.sleep(0.05)
    for each, began_s in processes.items():
        if _is_alive(each, began_s):
            os.kill(each, signal.SIGKILL)


def _is_alive(pid: int, began_s: float | None) -> bool:
    return began_s is not None and _began_s(pid) == began_s


def _began_s(pid: int) -> float | None:
    """Return the start time of a process, or None if it does not exist or is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
    except OSError:
        return None
    return None if fields[0] == "Z" else int(boot.split()[1]) + int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _words(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def _children(pid: int) -> list[int]:
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [int(each) for each in found]
