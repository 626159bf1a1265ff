"""What is looked at before a job is handed over: mistakes that would otherwise show after hours in the queue."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from launch import slurm
from launch.history import Submitted
from launch.plan import Plan, last_job, refuse_taken
from launch.submit import test_only
from shards.console import track


def looks(plan: Plan) -> Iterator[str]:
    """Look at what can be seen at once; a line for each thing that is in order."""
    apart = plan.elements if plan.elements[0].part is None else plan.elements[:1]  # parts all read the same
    for element in apart:
        lines = element.job.check(plan.settings.ranks)
        if element is plan.elements[0]:
            yield from lines
    if len(plan.elements) > 1:
        yield f"array: {len(plan.elements)} jobs"


def preflight(plan: Plan) -> Iterator[str]:
    """Look at everything; raise UserError for what would go wrong."""
    runs = [element.job.folder for element in plan.elements]
    states = _what_keeps_alive([job for job in map(last_job, runs) if job is not None])
    for run in dict.fromkeys([plan.folder, *runs]):
        refuse_taken(run, states)
    yield f"run folder: {plan.folder} is free"
    yield from looks(plan)
    for element in track(plan.elements, "rehearsing memory"):
        lines = element.job.weigh(plan.settings.ranks, plan.settings.device)
        if element is plan.elements[0]:
            yield from lines
    if plan.cluster == "slurm":
        yield f"SLURM: {test_only(plan.order)}"


def _what_keeps_alive(jobs: list[Submitted]) -> dict[str, str | None]:
    """Say of each job, by its id, what it is doing; None of those that are over."""
    found: dict[str, str | None] = {}
    on_slurm = [job.job_id for job in jobs if job.cluster == "slurm"]
    for job_id, state in slurm.states(on_slurm, lambda text: print(f"warning: {text}", file=sys.stderr)).items():
        found[job_id] = state.state.lower() if state is not None and state.is_live else None
    for job in jobs:
        if job.cluster == "local" and job.host == socket.gethostname() and _is_controller(job.job_id):
            found[job.job_id] = "running"
    return found


def _is_controller(job_id: str) -> bool:
    """Say whether the process of that number is submitit's; numbers come round again."""
    try:
        words = Path(f"/proc/{job_id}/cmdline").read_bytes()
    except OSError:
        return False
    return b"submitit" in words and os.path.exists(f"/proc/{job_id}")
