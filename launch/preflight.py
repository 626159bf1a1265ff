"""Checks before a job is submitted: errors that would otherwise appear only after hours in the queue."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from trichord.core.command import command_line
from trichord.core.console import printable, track
from trichord.core.errors import UserError
from trichord.core.run_folder import RunFolder
from trichord.launch.plan import Plan
from trichord.launch.run_state import LIVE
from trichord.launch.submit import test_only
from trichord.launch.survey import RunStatus, survey
from trichord.pretrain.engine.run_lock import SILENT_S, read_holder


def quick_checks(plan: Plan) -> Iterator[str]:
    """Run the quick checks; yield a line for each that passes."""
    checked = plan.elements if plan.elements[0].part is None else plan.elements[:1]  # all parts read the same data
    for element in checked:
        lines = element.job.check(plan.settings.ranks)
        if element is plan.elements[0]:
            yield from lines
    if len(plan.elements) > 1:
        yield f"array: {len(plan.elements)} jobs"


def preflight(plan: Plan) -> Iterator[str]:
    """Run all checks and yield a line for each that passes; raise UserError for one that fails."""
    runs = list(dict.fromkeys([plan.folder, *(element.job.folder for element in plan.elements)]))
    for report in survey(runs, lambda text: print(f"warning: {printable(text)}", file=sys.stderr)):
        refuse_taken(report)
    yield f"run folder: {plan.folder} is free"
    yield from quick_checks(plan)
    for element in track(plan.elements, "measuring memory"):
        lines = element.job.weigh(plan.settings.ranks, plan.settings.device)
        if element is plan.elements[0]:
            yield from lines
    if plan.cluster == "slurm":
        yield f"SLURM: {test_only(plan.order)}"


def refuse_taken(report: RunStatus) -> None:
    """Raise UserError if a run's folder belongs to another user, is not writable, or has a live job."""
    run = report.run.path
    nearest = next(path for path in (run, *run.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"{nearest} is a file; expected a folder for the run. Give another --run")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{nearest} is not writable. Set --run to a folder that you can write to")
    if nearest == run and run.stat().st_uid != os.getuid():
        raise UserError(f"{run} belongs to {_owner(run)}. Give another --run")
    if report.cluster is not None and report.verdict.state in LIVE:
        raise UserError(
            f"job {report.job_id} ({report.verdict.state}) already uses {run}. See: {command_line('status', run)}; end "
            f"it: {command_line('cancel', run)}"
        )
    holder = read_holder(run)
    if holder is not None and not holder.is_gone() and _seconds_since_touched(RunFolder(run).lock) <= SILENT_S:
        raise UserError(f"{run} is in use by {holder.words}. Wait for it, or end it, or give another --run")


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except KeyError:  # the user is not known on this machine
        return f"user id {path.stat().st_uid}"


def _seconds_since_touched(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return math.inf
