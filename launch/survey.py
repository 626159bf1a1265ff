"""Examine many runs at once: read their folders, query SLURM once for all jobs, and decide the state of each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trichord.launch import local_job, slurm
from trichord.launch.history import Cluster, Ended, Event, RankError, Started
from trichord.launch.run_record import RunRecord
from trichord.launch.run_state import Evidence, State, Verdict, decide, has_ended, must_ask
from trichord.launch.slurm import JobState

ClusterAnswer = JobState | Literal["not known", "no answer"]
_WITH_CURRENT_ERROR = (State.RUNNING, State.FAILED, State.LOST)  # in other states an error is from an earlier start


@dataclass(frozen=True)
class RunStatus:
    """One run and the job that it now depends on."""

    run: RunRecord
    job_id: str | None  # None if nothing was launched and nothing runs
    cluster: Cluster | None  # None if nothing was launched
    answer: ClusterAnswer
    errors: Sequence[RankError]  # of the job's last start, the cause first
    verdict: Verdict

    @property
    def events(self) -> Sequence[Event]:
        """The job's history."""
        return self.run.events_of(self.job_id) if self.job_id else []

    @property
    def error(self) -> RankError | None:
        """The error that affects the run now, or None."""
        return next(iter(self.errors), None) if self.verdict.state in _WITH_CURRENT_ERROR else None

    @property
    def restarts(self) -> int:
        """How often its job was restarted."""
        return max((event.restarts for event in self.events if isinstance(event, Started | Ended)), default=0)

    @property
    def eta_s(self) -> float | None:
        """The seconds to the end, from the estimate in the run's last log line."""
        figures = self.run.figures
        if self.verdict.state != State.RUNNING or figures is None or figures.eta_s is None or figures.time_s is None:
            return None
        began_s = max((event.time_s for event in self.events), default=-math.inf)
        if figures.time_s < began_s:
            return None
        return max(0.0, figures.eta_s - max(0.0, time.time() - figures.time_s))


def survey(paths: Sequence[Path], warn: Callable[[str], None]) -> list[RunStatus]:
    """Report on these runs; if SLURM does not answer, warn and decide by the folders alone."""
    runs = [RunRecord(path) for path in paths]
    asked = {run.job: run.events_of(run.job) for run in runs if run.job and cluster_of(run) in ("slurm", None)}
    asked = {job_id: events for job_id, events in asked.items() if must_ask(events) and job_id[0].isdecimal()}
    # A recorded end needs no confirmation by SLURM.
    matters = any(not has_ended(events) for events in asked.values())
    answers: Mapping[str, JobState | None] = {}
    try:
        answers = slurm.states(sorted(asked), warn if matters else lambda text: None)
    except slurm.NoAnswer as error:
        if matters:
            warn(f"states are taken from the run folders, because SLURM does not answer: {str(error).splitlines()[0]}")
    return [_report(run, answers) for run in runs]


def cluster_of(run: RunRecord) -> Cluster | None:
    """Return the kind of cluster that the run's job was launched on, None if it was not launched."""
    submitted = run.submission(run.job) if run.job else None
    return submitted.cluster if submitted else None


def _report(run: RunRecord, answers: Mapping[str, JobState | None]) -> RunStatus:
    job_id = run.job
    answer = _answer(run, answers)
    errors = run.errors(job_id) if job_id else []
    evidence = Evidence(
        events=run.events_of(job_id) if job_id else [],
        answer=answer,
        heartbeat_s=run.heartbeat_s(job_id) if job_id else None,
        has_errors=bool(errors),
        is_done=run.is_done,
        is_saved=run.checkpoint is not None,
    )
    verdict = decide(evidence)
    if run.problems and verdict.state is not State.FAILED:  # whose own error says more
        verdict = Verdict(State.BROKEN, run.problems[0])
    return RunStatus(run, job_id, cluster_of(run), answer, errors, verdict)


def _answer(run: RunRecord, answers: Mapping[str, JobState | None]) -> ClusterAnswer:
    submitted = run.submission(run.job) if run.job else None
    if submitted is not None and submitted.cluster == "local" and local_job.is_here(submitted):
        return local_job.state(submitted, run.path) or "not known"
    if run.job is None or run.job not in answers:
        return "no answer"
    return answers[run.job] or "not known"
