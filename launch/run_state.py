"""Decide the state of a run from its folder and the cluster's answer; either may be missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from trichord.launch.history import Ended, Event, Started, Submitted
from trichord.launch.slurm import JobState

SILENT_S = 60.0  # a heartbeat comes every five seconds


class State(StrEnum):
    """The state of a run."""

    QUEUED = "queued"
    RUNNING = "running"
    REQUEUED = "requeued"  # waiting to continue
    STOPPED = "stopped"  # can be resumed
    FINISHED = "finished"
    FAILED = "failed"
    LOST = "lost"  # recorded as running, but no process or job confirms it
    UNKNOWN = "unknown"
    BROKEN = "broken"  # a file of its folder cannot be read


LIVE = (State.RUNNING, State.REQUEUED, State.QUEUED)


@dataclass(frozen=True)
class Verdict:
    """A state and the reason for it."""

    state: State
    why: str = ""


@dataclass(frozen=True)
class Evidence:
    """What is known about one job of a run, or about a run without a job."""

    events: Sequence[Event] = ()  # of this job, in order
    answer: JobState | Literal["not known", "no answer"] = "no answer"  # the cluster's answer
    heartbeat_s: float | None = None  # seconds since this start touched the lock; infinite if its process ended
    has_errors: bool = False  # in this start
    is_done: bool = False  # its figures reach the last step
    is_saved: bool = False  # there is a checkpoint


# SLURM's end states of a job that did not fail by itself, so that the same command resumes it.
_INTERRUPTED = {
    "CANCELLED": "cancelled",
    "PREEMPTED": "pre-empted and not requeued",
    "TIMEOUT": "killed at its time limit before it saved and requeued",
    "DEADLINE": "killed at its deadline",
    "NODE_FAIL": "a node failed, and it was not requeued",
    "BOOT_FAIL": "a node did not start",
    "REVOKED": "revoked",
}
_PAUSED = ("SUSPENDED", "STOPPED")
_FAILED = {"OUT_OF_MEMORY": "a node ran out of memory"}


def must_ask(events: Sequence[Event]) -> bool:
    """Return whether the cluster may know more about a job than its history: a stopped job may be requeued later."""
    return not (events and isinstance(events[-1], Ended) and events[-1].how == "finished")


def has_ended(events: Sequence[Event]) -> bool:
    """Return whether a job recorded its end and was not requeued."""
    return bool(events) and isinstance(events[-1], Ended) and events[-1].how != "requeued"


def decide(evidence: Evidence) -> Verdict:
    """Return the state of a job."""
    events, answer = evidence.events, evidence.answer
    last = events[-1] if events else None
    if isinstance(answer, JobState) and answer.is_waiting:
        has_run = any(not isinstance(event, Submitted) for event in events)
        return Verdict(State.REQUEUED if has_run else State.QUEUED, _waiting(answer, last))
    if isinstance(last, Ended) and last.how != "requeued":
        if last.how == "stopped" and isinstance(answer, JobState) and answer.is_running:
            return Verdict(State.RUNNING, "it is about to end or to restart")
        return Verdict(State(last.how), last.why)
    if isinstance(answer, JobState):
        return _decide_by_cluster(evidence, answer, last)
    return _decide_by_folder(evidence, last)


def _decide_by_cluster(evidence: Evidence, job: JobState, last: Event | None) -> Verdict:
    """Return the state by the cluster's answer for a job that has not recorded its end."""
    if job.state in _PAUSED:
        return Verdict(State.RUNNING, f"SLURM reports {job.state}: the job is paused")
    if job.is_running:
        silence = _silence(evidence)
        if silence:
            return Verdict(State.LOST, f"{silence}, though its job is {job.state}")
        if isinstance(last, Ended) and job.state == "COMPLETING":
            return Verdict(State.REQUEUED, last.why)
        return Verdict(State.RUNNING, "" if isinstance(last, Started) else "starting")
    if job.state == "COMPLETED" and not evidence.has_errors:
        if evidence.is_done:
            return Verdict(State.FINISHED)
        return Verdict(State.UNKNOWN, "SLURM reports COMPLETED, but the job did not record its end")
    if job.state in _INTERRUPTED:
        return Verdict(State.STOPPED, _INTERRUPTED[job.state])
    return Verdict(State.FAILED, _FAILED.get(job.state, f"SLURM reports {job.state}"))


def _decide_by_folder(evidence: Evidence, last: Event | None) -> Verdict:
    """Return the state by the folder alone: the cluster does not know the job, or does not answer."""
    silence = _silence(evidence)
    if evidence.heartbeat_s is not None and silence is None:
        return Verdict(State.RUNNING)
    if evidence.has_errors:
        return Verdict(State.FAILED)
    if last is None:
        return _decide_manual(evidence, silence)
    if evidence.answer == "not known":
        claim = "was submitted" if isinstance(last, Submitted) else "runs"
        return Verdict(State.LOST, f"its history says that it {claim}, but there is no such job")
    if silence:
        return Verdict(State.LOST, silence)
    if isinstance(last, Ended):
        return Verdict(State.REQUEUED, last.why)
    return Verdict(State.UNKNOWN, f"it was {last.event}; nothing more is known")


def _waiting(job: JobState, last: Event | None) -> str:
    reason = f"waiting: {job.reason}" if job.reason else "waiting"
    return f"{last.why}; {reason}" if isinstance(last, Ended) and last.why else reason


def _decide_manual(evidence: Evidence, silence: str | None) -> Verdict:
    """Return the state of a run that was started by hand, which removes its lock at its end."""
    if silence:
        return Verdict(State.LOST, silence)
    if evidence.is_done:
        return Verdict(State.FINISHED)
    if evidence.is_saved:
        return Verdict(State.STOPPED)
    return Verdict(State.UNKNOWN, "it is not running, and nothing was saved")


def _silence(evidence: Evidence) -> str | None:
    """Return how long the run has been silent, in words; None if that is within the limit."""
    heartbeat_s = evidence.heartbeat_s
    if heartbeat_s is None or heartbeat_s <= SILENT_S:
        return None
    if heartbeat_s == float("inf"):
        return "its process has ended"
    return f"its last heartbeat was {heartbeat_s / 60:.0f} min ago"
