"""`trichord cancel`: ask the jobs of runs to save and end, or end them at once."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from trichord.core.command import command_line
from trichord.core.console import printable
from trichord.core.errors import UserError
from trichord.launch import local_job, slurm
from trichord.launch.history import Ended, Submitted
from trichord.launch.run_record import named_runs
from trichord.launch.run_state import LIVE, State
from trichord.launch.survey import RunStatus, survey

_IN_DOUBT = (State.LOST, State.UNKNOWN, State.BROKEN)


def run_cancel(arguments: Namespace) -> int:
    """Cancel the runs of parsed arguments."""
    cancel_runs(arguments.runs, arguments.now)
    return 0


def cancel_runs(named: Sequence[Path], now: bool) -> None:
    """Cancel the live jobs of these runs and print the outcome for each; raise UserError if none is live."""
    reports = survey(named_runs(named), lambda text: print(f"warning: {printable(text)}", file=sys.stderr))
    live = [report for report in reports if report.verdict.state in LIVE or _may_live(report)]
    if not live:
        states = "".join(f"\n  {report.run.path} is {report.verdict.state}" for report in reports)
        raise UserError(f"nothing to cancel:{states}\nNext: trichord status")
    refused = []
    for report in reports:
        try:
            done = _cancel(report, now) if report in live else f"nothing to do, it is {report.verdict.state}"
            print(printable(f"{report.run.path}: {done}"), flush=True)
        except UserError as error:  # the other runs of a sweep are cancelled regardless
            refused.append(f"{report.run.path}: {error}")
    if refused:
        raise UserError("\n".join(refused))


def _may_live(report: RunStatus) -> bool:
    """Return whether a job may still hold its nodes although rank 0 is silent or SLURM did not answer."""
    is_in_doubt = report.answer == "no answer" or _is_known(report)
    return report.verdict.state in _IN_DOUBT and report.job_id is not None and is_in_doubt


def _cancel(report: RunStatus, now: bool) -> str:
    job_id = report.job_id
    if report.cluster == "local":
        return _cancel_local(report, now)
    if job_id is None or not job_id[0].isdecimal() or (report.cluster is None and not _is_known(report)):
        raise UserError(_manual_instructions(report))
    if now:
        slurm.cancel(job_id)
        return f"job {job_id} was ended at once; its last checkpoint is kept"
    if isinstance(report.answer, slurm.JobState) and report.answer.is_waiting:
        slurm.cancel(job_id)
        return f"job {job_id} was removed from the queue"
    if _is_starting(report):
        slurm.cancel(job_id)
        return f"job {job_id} was ended; it had not started to work"
    slurm.send_signal(job_id, "USR1")
    return f"job {job_id} was asked to save and end; {command_line('status', report.run.path)} shows when it has"


def _cancel_local(report: RunStatus, now: bool) -> str:
    submitted = report.run.submission(str(report.job_id))
    assert submitted is not None
    same_command = command_line("cancel", report.run.path, *["--now"] * now)
    if not local_job.is_here(submitted):
        raise UserError(
            f"job {submitted.job_id} runs on {submitted.host}, not here.\nNext: on {submitted.host}: {same_command}"
        )
    pid = local_job.controller(submitted, report.run.path)
    if pid is None:
        return "nothing to do, its process has ended"
    if now:
        local_job.end(pid)
        return f"process {pid} and its ranks were ended at once; the last checkpoint is kept"
    local_job.ask_to_stop(pid)
    return (
        f"process {pid} was asked to let its ranks save and end; "
        f"{command_line('status', report.run.path)} shows when they have"
    )


def _is_starting(report: RunStatus) -> bool:
    """Return whether a job has its nodes but no signal handler yet: a signal would be lost, or would kill it."""
    last = next(reversed(report.events), None)
    is_before_its_start = isinstance(last, Submitted) or (isinstance(last, Ended) and last.how == "requeued")
    return isinstance(report.answer, slurm.JobState) and report.answer.state == "RUNNING" and is_before_its_start


def _is_known(report: RunStatus) -> bool:
    return isinstance(report.answer, slurm.JobState)


def _manual_instructions(report: RunStatus) -> str:
    holder = report.run.holder
    if holder is None:
        return f"no job of this run was found on this machine.\nNext: {command_line('status', report.run.path)}"
    return (
        f"it was not started by `trichord launch`; it runs as {holder.words}.\n"
        f"Next: to let it save and end, on {holder.host}: kill -TERM {holder.pid}"
    )
