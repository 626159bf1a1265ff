"""In which state a run is, decided from what its folder tells and what the cluster says; both may be silent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from trichord.launch.history import Ended, Event, Started, Submitted
from trichord.launch.slurm import JobState

SILENT_S = 60.0  # a heartbeat comes every five seconds


class State(StrEnum):
    """What people ask for first."""

    QUEUED = "queued"
    RUNNING = "running"
    REQUEUED = "requeued"  # waiting to go on
    STOPPED = "stopped"  # can be resumed
    FINISHED = "finished"
    FAILED = "failed"
    LOST = "lost"  # it says that it runs, but nobody else does
    UNKNOWN = "unknown"


LIVE = (State.RUNNING, State.REQUEUED, State.QUEUED)


@dataclass(frozen=True)
class Verdict:
    """A state and what speaks for it."""

    state: State
    why: str = ""


@dataclass(frozen=True)
class Evidence:
    """What is known of one job of a run, or of a run that no job was launched for."""

    events: Sequence[Event] = ()  # of this job, in order
    said: JobState | Literal["not known", "no answer"] = "no answer"  # of it by the cluster
    heartbeat_s: float | None = None  # seconds since this start of it touched the lock; infinite where it died
    has_errors: bool = False  # of this start
    is_done: bool = False  # its figures reach the last step
    is_saved: bool = False  # there is a checkpoint


# The states in which SLURM leaves a job that was not to blame, so that the same command goes on.
_INTERRUPTED = {
    "CANCELLED": "cancelled",
    "PREEMPTED": "pre-empted and not requeued",
    "TIMEOUT": "killed at its time limit before it had saved and requeued",
    "DEADLINE": "killed at its deadline",
    "NODE_FAIL": "a node failed, and it was not requeued",
    "BOOT_FAIL": "a node did not start",
    "REVOKED": "revoked",
}
_PAUSED = ("SUSPENDED", "STOPPED")
_FAILED = {"OUT_OF_MEMORY": "a node's memory was full"}


def must_ask(events: Sequence[Event]) -> bool:
    """Say whether the cluster may know more of a job than its history: a stopped one may have been requeued since."""
    return not (events and isinstance(events[-1], Ended) and events[-1].how == "finished")


def has_ended(events: Sequence[Event]) -> bool:
    """Say whether a job told of its end, and not that it would go on."""
    return bool(events) and isinstance(events[-1], Ended) and events[-1].how != "requeued"


def decide(evidence: Evidence) -> Verdict:
    """Say in which state a job is."""
    events, said = evidence.events, evidence.said
    last = events[-1] if events else None
    if isinstance(said, JobState) and said.is_waiting:
        has_run = any(not isinstance(event, Submitted) for event in events)
        return Verdict(State.REQUEUED if has_run else State.QUEUED, _waiting(said, last))
    if isinstance(last, Ended) and last.how != "requeued":
        if last.how == "stopped" and isinstance(said, JobState) and said.is_running:
            return Verdict(State.RUNNING, "it is about to end, or to begin again")
        return Verdict(State(last.how), last.why)
    if isinstance(said, JobState):
        return _as_told(evidence, said, last)
    return _untold(evidence, last)


def _as_told(evidence: Evidence, said: JobState, last: Event | None) -> Verdict:
    """Judge by what the cluster says of a job that has not told of its end."""
    if said.state in _PAUSED:
        return Verdict(State.RUNNING, f"SLURM says {said.state}: it stands still")
    if said.is_running:
        silence = _silence(evidence)
        if silence:
            return Verdict(State.LOST, f"{silence}, though its job is {said.state}")
        if isinstance(last, Ended) and said.state == "COMPLETING":
            return Verdict(State.REQUEUED, last.why)
        return Verdict(State.RUNNING, "" if isinstance(last, Started) else "starting")
    if said.state == "COMPLETED" and not evidence.has_errors:
        if evidence.is_done:
            return Verdict(State.FINISHED)
        return Verdict(State.UNKNOWN, "SLURM says COMPLETED, but it never told of its end")
    if said.state in _INTERRUPTED:
        return Verdict(State.STOPPED, _INTERRUPTED[said.state])
    return Verdict(State.FAILED, _FAILED.get(said.state, f"SLURM says {said.state}"))


def _untold(evidence: Evidence, last: Event | None) -> Verdict:
    """Judge by the folder alone: nobody knows of a job, or nobody answers."""
    silence = _silence(evidence)
    if evidence.heartbeat_s is not None and silence is None:
        return Verdict(State.RUNNING)
    if evidence.has_errors:
        return Verdict(State.FAILED)
    if last is None:
        return _by_hand(evidence, silence)
    if evidence.said == "not known":
        claim = "was submitted" if isinstance(last, Submitted) else "runs"
        return Verdict(State.LOST, f"its history says that it {claim}, but there is no such job")
    if silence:
        return Verdict(State.LOST, silence)
    if isinstance(last, Ended):
        return Verdict(State.REQUEUED, last.why)
    return Verdict(State.UNKNOWN, f"it was {last.event}; no more is known")


def _waiting(said: JobState, last: Event | None) -> str:
    reason = f"waiting: {said.reason}" if said.reason else "waiting"
    return f"{last.why}; {reason}" if isinstance(last, Ended) and last.why else reason


def _by_hand(evidence: Evidence, silence: str | None) -> Verdict:
    """Judge a run that was started by hand: at its end it leaves no lock."""
    if silence:
        return Verdict(State.LOST, silence)
    if evidence.is_done:
        return Verdict(State.FINISHED)
    if evidence.is_saved:
        return Verdict(State.STOPPED)
    return Verdict(State.UNKNOWN, "it does not run, and nothing was saved")


def _silence(evidence: Evidence) -> str | None:
    """Word for how long the run has not been heard of; None where that is no matter."""
    heartbeat_s = evidence.heartbeat_s
    if heartbeat_s is None or heartbeat_s <= SILENT_S:
        return None
    if heartbeat_s == float("inf"):
        return "its process is gone"
    return f"its last sign of life is {heartbeat_s / 60:.0f} min old"
