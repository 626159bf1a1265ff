"""The state of a run is a pure function of its folder and of the answers of the cluster."""

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


def slurm_state(state: str) -> JobState:
    return JobState("7", state, "Resources" if state == "PENDING" else "")


NEW = (submitted(),)
BEGUN = (submitted(), started())
REQUEUED = (*BEGUN, ended("requeued", "the time limit was near"))
STOPPED = (*BEGUN, ended("stopped", "SIGTERM"))
ClusterAnswer = JobState | Literal["not known", "no answer"]


@pytest.mark.parametrize(
    ("events", "said", "state"),
    [
        (NEW, slurm_state("PENDING"), State.QUEUED),
        (NEW, slurm_state("CONFIGURING"), State.QUEUED),
        (NEW, slurm_state("RUNNING"), State.RUNNING),
        (NEW, slurm_state("CANCELLED"), State.STOPPED),
        (NEW, slurm_state("FAILED"), State.FAILED),
        (NEW, "not known", State.LOST),
        (NEW, "no answer", State.UNKNOWN),
        (BEGUN, slurm_state("RUNNING"), State.RUNNING),
        (BEGUN, slurm_state("SUSPENDED"), State.RUNNING),
        (BEGUN, slurm_state("COMPLETING"), State.RUNNING),
        (BEGUN, slurm_state("PENDING"), State.REQUEUED),  # its node failed without recording an end
        (BEGUN, slurm_state("REQUEUED"), State.REQUEUED),
        (BEGUN, slurm_state("CANCELLED"), State.STOPPED),
        (BEGUN, slurm_state("TIMEOUT"), State.STOPPED),
        (BEGUN, slurm_state("NODE_FAIL"), State.STOPPED),
        (BEGUN, slurm_state("OUT_OF_MEMORY"), State.FAILED),
        (BEGUN, slurm_state("FAILED"), State.FAILED),
        (BEGUN, slurm_state("COMPLETED"), State.UNKNOWN),
        (BEGUN, "not known", State.LOST),
        (BEGUN, "no answer", State.UNKNOWN),
        (REQUEUED, slurm_state("PENDING"), State.REQUEUED),
        (REQUEUED, slurm_state("COMPLETING"), State.REQUEUED),
        (REQUEUED, slurm_state("RUNNING"), State.RUNNING),
        (REQUEUED, slurm_state("CANCELLED"), State.STOPPED),
        (REQUEUED, "not known", State.LOST),
        (REQUEUED, "no answer", State.REQUEUED),
        ((*REQUEUED, started(1)), slurm_state("RUNNING"), State.RUNNING),
        ((*BEGUN, ended("finished")), slurm_state("COMPLETING"), State.FINISHED),
        ((*BEGUN, ended("finished")), "no answer", State.FINISHED),
        ((*BEGUN, ended("failed")), slurm_state("RUNNING"), State.FAILED),
        ((*BEGUN, ended("failed")), "not known", State.FAILED),
        (STOPPED, "not known", State.STOPPED),
        (STOPPED, slurm_state("COMPLETED"), State.STOPPED),
        (STOPPED, slurm_state("PENDING"), State.REQUEUED),  # an external requeue starts with SIGTERM as well
        (STOPPED, slurm_state("COMPLETING"), State.RUNNING),
    ],
)
def test_state_from_history_and_slurm(events: tuple[Event, ...], said: ClusterAnswer, state: State) -> None:
    assert decide(Evidence(events=events, answer=said)).state == state


@pytest.mark.parametrize(
    ("evidence", "state"),
    [
        (Evidence(BEGUN, "no answer", heartbeat_s=4), State.RUNNING),
        (Evidence(BEGUN, "not known", heartbeat_s=4), State.RUNNING),
        (Evidence(BEGUN, "no answer", heartbeat_s=600), State.LOST),
        (Evidence(BEGUN, "no answer", heartbeat_s=math.inf), State.LOST),
        (Evidence(BEGUN, slurm_state("RUNNING"), heartbeat_s=600), State.LOST),
        (Evidence(BEGUN, slurm_state("RUNNING"), heartbeat_s=30), State.RUNNING),
        (Evidence(BEGUN, "not known", has_errors=True), State.FAILED),
        (Evidence(BEGUN, "no answer", has_errors=True), State.FAILED),
        (
            Evidence(BEGUN, slurm_state("RUNNING"), has_errors=True),
            State.RUNNING,
        ),  # the other ranks have not noticed the error yet
        (Evidence(BEGUN, slurm_state("COMPLETED"), is_done=True), State.FINISHED),
        (Evidence(BEGUN, slurm_state("COMPLETED"), has_errors=True), State.FAILED),
        (Evidence(heartbeat_s=4), State.RUNNING),
        (Evidence(heartbeat_s=600, is_saved=True), State.LOST),
        (Evidence(is_done=True), State.FINISHED),
        (Evidence(is_saved=True), State.STOPPED),
        (Evidence(), State.UNKNOWN),
        (Evidence(answer=slurm_state("RUNNING")), State.RUNNING),  # in a job that was not submitted by launch
    ],
)
def test_state_from_heartbeat_errors_and_metrics(evidence: Evidence, state: State) -> None:
    assert decide(evidence).state == state


def test_state_includes_the_reason() -> None:
    assert decide(Evidence(REQUEUED, slurm_state("PENDING"))).why == "the time limit was near; waiting: Resources"
    assert "no such job" in decide(Evidence(BEGUN, "not known")).why
    assert "10 min ago" in decide(Evidence(BEGUN, slurm_state("RUNNING"), heartbeat_s=600)).why
    assert "process has ended" in decide(Evidence(BEGUN, "no answer", heartbeat_s=math.inf)).why
    assert "memory" in decide(Evidence(BEGUN, slurm_state("OUT_OF_MEMORY"))).why


def test_slurm_is_queried_for_all_but_finished_jobs() -> None:
    assert not must_ask((*BEGUN, ended("finished")))
    assert all(must_ask(events) for events in ((), NEW, BEGUN, REQUEUED, STOPPED))
