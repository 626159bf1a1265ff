"""`trichord status`: a table of runs, details of the named ones, and the next command for the state of each."""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from trichord.core.command import command_line
from trichord.core.console import counted, printable, show_figures
from trichord.core.errors import UserError
from trichord.core.reading import read_json
from trichord.core.run_folder import RunFolder
from trichord.launch.cluster_file import ClusterSettings
from trichord.launch.history import Ended, RankError, Started, Submitted
from trichord.launch.run_record import RunRecord, find_runs, named_runs
from trichord.launch.run_state import LIVE, State
from trichord.launch.survey import RunStatus, survey
from trichord.pretrain.engine.trackers import duration

_LABELS = {State.REQUEUED: "requeued (waiting to continue)", State.STOPPED: "stopped (resumable)"}
_LONGEST_ERROR = 160


def run_status(arguments: Namespace) -> int:
    """Show the runs of parsed arguments."""
    show_status(arguments.runs, arguments.json)
    return 0


def show_status(named: Sequence[Path], as_json: bool) -> None:
    """Print the table of runs, and below it the details of the named ones."""
    paths = named_runs(named) if named else find_runs(Path("runs"), Path())
    if not paths:
        raise UserError(
            "no run below ./runs or here: expected folders with history.jsonl or metrics.jsonl.\n"
            "Next: cd to the folder that holds them, or: trichord status RUN"
        )
    reports = survey(paths, lambda text: print(f"warning: {printable(text)}", file=sys.stderr))
    detailed = [report for report in reports if report.run.path in named or len(reports) == 1]
    if as_json:
        rows = [{**_row(report), **(_details(report) if report in detailed else {})} for report in reports]
        show_figures("runs", rows, as_json=True)
        return
    # A table even for a single run: the lines below it give the details.
    show_figures("runs", [_in_words(_row(report)) for report in reports], as_json=False)
    for report in detailed:
        print(printable("\n".join(_paragraph(report))), end="\n\n")


def _row(report: RunStatus) -> dict[str, object]:
    figures, error = report.run.figures, report.error
    done, steps = (figures.step + 1, figures.steps) if figures else (None, None)
    why = report.verdict.why
    message = _one_line(error) if error else (why if report.verdict.state in (State.FAILED, State.BROKEN) else None)
    return {
        "run": str(report.run.path),
        "state": report.verdict.state.value,
        "why": why or None,
        "step": done,
        "steps": steps,
        "percent": round(100 * done / steps, 1) if done and steps else None,
        "clips_per_s": figures.clips_per_s if figures else None,
        "eta_s": report.eta_s,
        "restarts": report.restarts,
        "job": report.job_id,
        "last_error": message,
    }


def _in_words(row: dict[str, object]) -> dict[str, object]:
    state, eta_s, percent = State(str(row["state"])), row["eta_s"], row["percent"]
    step = f"{row['step']}/{row['steps']}" if row["steps"] else row["step"]
    error = row["last_error"]
    return {
        "run": row["run"],
        "state": _LABELS.get(state, state.value),
        "step": step,
        "%": percent,
        "clips/s": row["clips_per_s"],
        "ETA": duration(eta_s) if isinstance(eta_s, float) else None,
        "restarts": row["restarts"],
        "job": row["job"],
        "last error": None if error is None else str(error)[:_LONGEST_ERROR],
    }


def _details(report: RunStatus) -> dict[str, object]:
    checkpoint, logs = report.run.checkpoint, report.run.logs()
    return {
        "history": [event.model_dump(mode="json") for event in report.run.history],
        "checkpoint": str(checkpoint) if checkpoint else None,
        "logs": [str(path) for ranks in logs.values() for path in ranks.values()],
        "failed_rank": report.error.rank if report.error else None,
        "traceback": (report.error.traceback or report.error.message) if report.error else None,
        "next": next_command(report),
    }


def _paragraph(report: RunStatus) -> Iterator[str]:
    run, verdict = report.run, report.verdict
    yield f"{run.path}: {_LABELS.get(verdict.state, verdict.state.value)}" + (f", {verdict.why}" * bool(verdict.why))
    yield from (f"  {line}" for line in _attempts(run))
    yield f"  checkpoint: {run.checkpoint or 'none yet'}"
    yield f"  logs: {_logs(run)}"
    error, others = report.error, len(report.errors) - 1
    if error:
        also = f" (ranks that failed after it: {others})" if others else ""
        yield f"  rank {error.rank} failed first, at {_clock(error.time_s)}{also}:"
        yield from (f"    {line}" for line in (error.traceback or error.message).rstrip().splitlines())
    yield f"  next: {next_command(report)}"


def _attempts(run: RunRecord) -> Iterator[str]:
    """Yield a line for each submission and for each start with its end, job by job."""
    for job_id in dict.fromkeys(event.job_id for event in run.history):
        start = ""  # a start whose end is not recorded yet
        for event in run.events_of(job_id):
            if start and not isinstance(event, Ended):
                yield f"{start}; killed"
                start = ""
            if isinstance(event, Submitted):
                size = f"{event.nodes} nodes, " * (event.nodes > 1) + counted(event.ranks, "rank")
                yield (
                    f"{_clock(event.time_s)} job {job_id} submitted on {event.host} ({event.cluster}, {size}, "
                    f"snapshot {event.snapshot}): {shlex.join(event.words)}"
                )
            elif isinstance(event, Started):
                began = f"restarted (restart {event.restarts}: {event.why})" if event.restarts else "started"
                start = f"{_clock(event.time_s)} job {job_id} {began} on {event.nodes}"
            else:
                end = f"{event.how} at {_clock(event.time_s)}" + f" ({event.why})" * bool(event.why)
                yield f"{start or f'job {job_id}'}; {end}"
                start = ""
        if start:
            yield f"{start}; no end recorded yet"


def _logs(run: RunRecord) -> str:
    logs = run.logs()
    if not logs:
        return "none"
    job_id, ranks = list(logs.items())[-1]
    first = ranks[min(ranks)]
    return str(first) if len(ranks) == 1 else f"{first.parent}/{job_id}_R_log.out, R = {min(ranks)} to {max(ranks)}"


def _one_line(error: RankError) -> str:
    """Return the first line of a message, or the last line of a traceback."""
    lines = error.message.strip().splitlines() or error.traceback.strip().splitlines()[-1:]
    return next(iter(lines), "an error without a message")


def _clock(time_s: float) -> str:
    return datetime.fromtimestamp(time_s).strftime("%Y-%m-%d %H:%M:%S")


_LAUNCH_FILE = "launch.json"  # in a snapshot: the settings of its jobs


def next_command(report: RunStatus) -> str:
    """Return the most useful next command for the state of a run."""
    path, state = report.run.path, report.verdict.state
    if state == State.BROKEN:
        return f"restore the file in {path}, or move the folder away"
    if state in LIVE:
        return command_line("logs", path, "--follow")
    if state == State.FINISHED:
        return command_line("plot" if report.run.figures else "logs", path)
    if state == State.UNKNOWN and report.events:
        return command_line("logs", path)
    if state == State.FAILED and report.run.logs():
        rank = ("--rank", report.error.rank) if report.error and report.error.rank else ()
        return f"{command_line('logs', path, *rank)}; when that is fixed: {_resume_command(report.run)}"
    return _resume_command(report.run)


def _resume_command(run: RunRecord) -> str:
    """Return the command that resumes a run."""
    submitted = next((event for event in reversed(run.history) if isinstance(event, Submitted)), None)
    config = RunFolder(run.path).config
    try:
        by_config = (_verb(config), str(config), "--run", str(run.path))
    except UserError as error:
        return f"mend the config: {error}"
    if submitted is None:
        return command_line(*by_config)
    # A run of a sweep records the whole sweep's command; only its own config selects it alone.
    is_of_sweep = "_" in submitted.job_id and submitted.words[0] == by_config[0] and config.exists()
    cluster = [] if submitted.cluster == "slurm" else ["--cluster", submitted.cluster]
    options = list(_options(_settings(run, submitted)))
    return command_line("launch", *cluster, *options, *(by_config if is_of_sweep else submitted.words))


def _verb(config: Path) -> str:
    """Return the subcommand that resumes a run with this config."""
    from trichord.finetune.recipe import (
        is_for_heads,  # imports every config class, needed only for a stopped run
    )

    return "finetune" if config.exists() and is_for_heads(str(config)) else "pretrain"


def _settings(run: RunRecord, submitted: Submitted) -> dict[str, Any]:
    """Read the settings of the job; those of a sweep are in the sweep's folder."""
    for folder in (run.path, run.path.parent):
        try:
            order = read_json(RunFolder(folder).snapshots / submitted.snapshot / _LAUNCH_FILE)
            given = order.get("settings") if isinstance(order, dict) else None
            return ClusterSettings.model_validate(given or {}).model_dump(mode="json", exclude_unset=True)
        except (OSError, ValueError):
            continue
    return {"nodes": submitted.nodes}


def _options(settings: dict[str, Any]) -> Iterator[str]:
    for name, field in ClusterSettings.model_fields.items():
        value = settings.get(name)
        if value in (None, {}, []) or value == field.default:
            continue
        values = [f"{key}={_option_text(each)}" for key, each in value.items()] if isinstance(value, dict) else value
        for each in values if isinstance(values, list) else [values]:
            option = f"--{name.replace('_', '-')}"
            yield from [f"{option}={each}"] if str(each).startswith("-") else [option, str(each)]


def _option_text(value: object) -> str:
    return "true" if value is True else str(value)
