"""Looks at many runs at once: their folders, one question to SLURM for all jobs together, and a verdict for each."""

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

Said = JobState | Literal["not known", "no answer"]
_SUFFERING = (State.RUNNING, State.FAILED, State.LOST)  # in the others an error is of a start before


@dataclass(frozen=True)
class Report:
    """One run and the job that it now depends on."""

    run: RunRecord
    job_id: str | None  # none where nothing was launched and nothing runs
    cluster: Cluster | None  # none where nothing was launched
    said: Said
    errors: Sequence[RankError]  # of the job's last start, the cause first
    verdict: Verdict

    @property
    def events(self) -> Sequence[Event]:
        """The job's history."""
        return self.run.events_of(self.job_id) if self.job_id else []

    @property
    def error(self) -> RankError | None:
        """The error that the run suffers from now."""
        return next(iter(self.errors), None) if self.verdict.state in _SUFFERING else None

    @property
    def restarts(self) -> int:
        """How often its job began before."""
        return max((event.restarts for event in self.events if isinstance(event, Started | Ended)), default=0)

    @property
    def eta_s(self) -> float | None:
        """Give the seconds to the end, as the run itself reckoned at its last log line."""
        eta_s, told_s = self.run.figures.get("eta_s"), self.run.figures.get("time_s")
        began_s = max((event.time_s for event in self.events), default=-math.inf)
        if self.verdict.state != State.RUNNING or eta_s is None or told_s is None or told_s < began_s:
            return None
        return max(0.0, float(eta_s) - max(0.0, time.time() - float(told_s)))


def survey(paths: Sequence[Path], warn: Callable[[str], None]) -> list[Report]:
    """Look at these runs; what SLURM does not answer is warned of, and judged by the folders alone."""
    runs = [RunRecord(path) for path in paths]
    asked = {run.job: run.events_of(run.job) for run in runs if run.job and cluster_of(run) in ("slurm", None)}
    asked = {job_id: events for job_id, events in asked.items() if must_ask(events) and job_id[0].isdecimal()}
    # What a job told of its end may stand without SLURM's word.
    matters = any(not has_ended(events) for events in asked.values())
    answers: Mapping[str, JobState | None] = {}
    try:
        answers = slurm.states(sorted(asked), warn if matters else lambda text: None)
    except slurm.NoAnswer as error:
        if matters:
            warn(f"states are as the run folders tell them, for SLURM does not answer: {str(error).splitlines()[0]}")
    return [_report(run, answers) for run in runs]


def cluster_of(run: RunRecord) -> Cluster | None:
    """Say where the run's job was launched, None where it was not."""
    submitted = run.submission(run.job) if run.job else None
    return submitted.cluster if submitted else None


def _report(run: RunRecord, answers: Mapping[str, JobState | None]) -> Report:
    job_id = run.job
    said = _said(run, answers)
    errors = run.errors(job_id) if job_id else []
    evidence = Evidence(
        events=run.events_of(job_id) if job_id else [],
        said=said,
        heartbeat_s=run.heartbeat_s(job_id) if job_id else None,
        has_errors=bool(errors),
        is_done=run.is_done,
        is_saved=run.checkpoint is not None,
    )
    return Report(run, job_id, cluster_of(run), said, errors, decide(evidence))


def _said(run: RunRecord, answers: Mapping[str, JobState | None]) -> Said:
    submitted = run.submission(run.job) if run.job else None
    if submitted is not None and submitted.cluster == "local" and local_job.is_here(submitted):
        return local_job.state(submitted, run.path) or "not known"
    if run.job is None or run.job not in answers:
        return "no answer"
    return answers[run.job] or "not known"
