"""The state of a run is a pure function of what its folder tells and what the cluster says."""

from __future__ import annotations

import math
from typing import Literal

import pytest

from trichord.launch.history import Ended, Event, How, Started, Submitted
from trichord.launch.run_state import Evidence, State, decide, must_ask
from trichord.launch.slurm import JobState


def submitted() -> Event:
    return Submitted(
        time_s=1, job_id="7", cluster="slurm", host="login", snapshot="001", words=("pretrain", "svt"), nodes=1, ranks=1
    )


def started(restarts: int = 0) -> Event:
    return Started(time_s=2, job_id="7", restarts=restarts, why="submitted", nodes="n1", pid=9)


def ended(how: How, why: str = "") -> Event:
    return Ended(time_s=3, job_id="7", restarts=0, how=how, why=why)


def says(state: str) -> JobState:
    return JobState("7", state, "Resources" if state == "PENDING" else "")


NEW = (submitted(),)
BEGUN = (submitted(), started())
REQUEUED = (*BEGUN, ended("requeued", "the time limit was near"))
STOPPED = (*BEGUN, ended("stopped", "SIGTERM"))
Said = JobState | Literal["not known", "no answer"]


@pytest.mark.parametrize(
    ("events", "said", "state"),
    [
        (NEW, says("PENDING"), State.QUEUED),
        (NEW, says("CONFIGURING"), State.QUEUED),
        (NEW, says("RUNNING"), State.RUNNING),
        (NEW, says("CANCELLED"), State.STOPPED),
        (NEW, says("FAILED"), State.FAILED),
        (NEW, "not known", State.LOST),
        (NEW, "no answer", State.UNKNOWN),
        (BEGUN, says("RUNNING"), State.RUNNING),
        (BEGUN, says("SUSPENDED"), State.RUNNING),
        (BEGUN, says("COMPLETING"), State.RUNNING),
        (BEGUN, says("PENDING"), State.REQUEUED),  # its node failed: no time to tell
        (BEGUN, says("REQUEUED"), State.REQUEUED),
        (BEGUN, says("CANCELLED"), State.STOPPED),
        (BEGUN, says("TIMEOUT"), State.STOPPED),
        (BEGUN, says("NODE_FAIL"), State.STOPPED),
        (BEGUN, says("OUT_OF_MEMORY"), State.FAILED),
        (BEGUN, says("FAILED"), State.FAILED),
        (BEGUN, says("COMPLETED"), State.UNKNOWN),
        (BEGUN, "not known", State.LOST),
        (BEGUN, "no answer", State.UNKNOWN),
        (REQUEUED, says("PENDING"), State.REQUEUED),
        (REQUEUED, says("COMPLETING"), State.REQUEUED),
        (REQUEUED, says("RUNNING"), State.RUNNING),
        (REQUEUED, says("CANCELLED"), State.STOPPED),
        (REQUEUED, "not known", State.LOST),
        (REQUEUED, "no answer", State.REQUEUED),
        ((*REQUEUED, started(1)), says("RUNNING"), State.RUNNING),
        ((*BEGUN, ended("finished")), says("COMPLETING"), State.FINISHED),
        ((*BEGUN, ended("finished")), "no answer", State.FINISHED),
        ((*BEGUN, ended("failed")), says("RUNNING"), State.FAILED),
        ((*BEGUN, ended("failed")), "not known", State.FAILED),
        (STOPPED, "not known", State.STOPPED),
        (STOPPED, says("COMPLETED"), State.STOPPED),
        (STOPPED, says("PENDING"), State.REQUEUED),  # SIGTERM is also how a requeue from outside begins
        (STOPPED, says("COMPLETING"), State.RUNNING),
    ],
)
def test_of_history_and_slurm(events: tuple[Event, ...], said: Said, state: State) -> None:
    assert decide(Evidence(events=events, said=said)).state == state


@pytest.mark.parametrize(
    ("evidence", "state"),
    [
        (Evidence(BEGUN, "no answer", heartbeat_s=4), State.RUNNING),
        (Evidence(BEGUN, "not known", heartbeat_s=4), State.RUNNING),
        (Evidence(BEGUN, "no answer", heartbeat_s=600), State.LOST),
        (Evidence(BEGUN, "no answer", heartbeat_s=math.inf), State.LOST),
        (Evidence(BEGUN, says("RUNNING"), heartbeat_s=600), State.LOST),
        (Evidence(BEGUN, says("RUNNING"), heartbeat_s=30), State.RUNNING),
        (Evidence(BEGUN, "not known", has_errors=True), State.FAILED),
        (Evidence(BEGUN, "no answer", has_errors=True), State.FAILED),
        (Evidence(BEGUN, says("RUNNING"), has_errors=True), State.RUNNING),  # the other ranks have not noticed yet
        (Evidence(BEGUN, says("COMPLETED"), is_done=True), State.FINISHED),
        (Evidence(BEGUN, says("COMPLETED"), has_errors=True), State.FAILED),
        (Evidence(heartbeat_s=4), State.RUNNING),
        (Evidence(heartbeat_s=600, is_saved=True), State.LOST),
        (Evidence(is_done=True), State.FINISHED),
        (Evidence(is_saved=True), State.STOPPED),
        (Evidence(), State.UNKNOWN),
        (Evidence(said=says("RUNNING")), State.RUNNING),  # in a job of one's own making
    ],
)
def test_of_heartbeat_errors_and_figures(evidence: Evidence, state: State) -> None:
    assert decide(evidence).state == state


def test_it_says_why() -> None:
    assert decide(Evidence(REQUEUED, says("PENDING"))).why == "the time limit was near; waiting: Resources"
    assert "no such job" in decide(Evidence(BEGUN, "not known")).why
    assert "10 min ago" in decide(Evidence(BEGUN, says("RUNNING"), heartbeat_s=600)).why
    assert "process has ended" in decide(Evidence(BEGUN, "no answer", heartbeat_s=math.inf)).why
    assert "memory" in decide(Evidence(BEGUN, says("OUT_OF_MEMORY"))).why


def test_only_of_a_finished_job_nobody_is_asked() -> None:
    assert not must_ask((*BEGUN, ended("finished")))
    assert all(must_ask(events) for events in ((), NEW, BEGUN, REQUEUED, STOPPED))
