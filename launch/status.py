"""`trichord status`: one table of runs, and at length those that were named.

What to type next, by the state that a run is in.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from trichord.core.console import show_figures
from trichord.core.errors import UserError
from trichord.core.run_folder import RunFolder
from trichord.launch.cluster_file import Settings
from trichord.launch.history import Ended, RankError, Started, Submitted
from trichord.launch.run_record import RunRecord, find_runs, named_runs
from trichord.launch.run_state import LIVE, State
from trichord.launch.survey import Report, survey
from trichord.pretrain.engine.step_line import duration

_IN_WORDS = {State.REQUEUED: "requeued (waiting to go on)", State.STOPPED: "stopped (resumable)"}
_LONGEST_ERROR = 160


def show_status(named: Sequence[Path], as_json: bool) -> None:
    """Print the table, and below it what else is known of the runs that were named."""
    paths = named_runs(named) if named else find_runs(Path("runs"), Path())
    if not paths:
        raise UserError(
            "no run below ./runs or here: expected folders with history.jsonl or metrics.jsonl.\n"
            "Next: cd to where they are, or: trichord status RUN"
        )
    reports = survey(paths, lambda text: print(f"warning: {text}", file=sys.stderr))
    at_length = [report for report in reports if report.run.path in named or len(reports) == 1]
    if as_json:
        rows = [{**_row(report), **(_details(report) if report in at_length else {})} for report in reports]
        show_figures("runs", rows, as_json=True)
        return
    # A table even of a single run: lines below it say the rest.
    show_figures("runs", [_in_words(_row(report)) for report in reports], as_json=False)
    for report in at_length:
        print("\n".join(_paragraph(report)), end="\n\n")


def _row(report: Report) -> dict[str, object]:
    figures, error = report.run.figures, report.error
    done = figures["step"] + 1 if figures else None
    steps = figures.get("steps")
    why = report.verdict.why
    message = _one_line(error) if error else (why if report.verdict.state == State.FAILED else None)
    return {
        "run": str(report.run.path),
        "state": report.verdict.state.value,
        "why": why or None,
        "step": done,
        "steps": steps,
        "percent": round(100 * done / steps, 1) if done and steps else None,
        "clips_per_s": figures.get("clips_per_s"),
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
        "state": _IN_WORDS.get(state, state.value),
        "step": step,
        "%": percent,
        "clips/s": row["clips_per_s"],
        "ETA": duration(eta_s) if isinstance(eta_s, float) else None,
        "restarts": row["restarts"],
        "job": row["job"],
        "last error": None if error is None else str(error)[:_LONGEST_ERROR],
    }


def _details(report: Report) -> dict[str, object]:
    checkpoint, logs = report.run.checkpoint, report.run.logs()
    return {
        "history": [event.model_dump(mode="json") for event in report.run.history],
        "checkpoint": str(checkpoint) if checkpoint else None,
        "logs": [str(path) for ranks in logs.values() for path in ranks.values()],
        "failed_rank": report.error.rank if report.error else None,
        "traceback": (report.error.traceback or report.error.message) if report.error else None,
        "next": next_command(report),
    }


def _paragraph(report: Report) -> Iterator[str]:
    run, verdict = report.run, report.verdict
    yield f"{run.path}: {_IN_WORDS.get(verdict.state, verdict.state.value)}" + (f", {verdict.why}" * bool(verdict.why))
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
    """Tell each submission, and each start with its end, in one line; job by job."""
    for job_id in dict.fromkeys(event.job_id for event in run.history):
        start = ""  # that has not told of its end
        for event in run.events_of(job_id):
            if start and not isinstance(event, Ended):
                yield f"{start}; killed"
                start = ""
            if isinstance(event, Submitted):
                size = f"{event.nodes} nodes, " * (event.nodes > 1) + f"{event.ranks} ranks"
                yield (
                    f"{_clock(event.time_s)} job {job_id} submitted on {event.host} ({event.cluster}, {size}, "
                    f"snapshot {event.snapshot}): {shlex.join(event.words)}"
                )
            elif isinstance(event, Started):
                began = f"began again (restart {event.restarts}: {event.why})" if event.restarts else "began"
                start = f"{_clock(event.time_s)} job {job_id} {began} on {event.nodes}"
            else:
                told = f"{event.how} at {_clock(event.time_s)}" + f" ({event.why})" * bool(event.why)
                yield f"{start or f'job {job_id}'}; {told}"
                start = ""
        if start:
            yield f"{start}; no end told so far"


def _logs(run: RunRecord) -> str:
    logs = run.logs()
    if not logs:
        return "none"
    job_id, ranks = list(logs.items())[-1]
    first = ranks[min(ranks)]
    return str(first) if len(ranks) == 1 else f"{first.parent}/{job_id}_R_log.out, R = {min(ranks)} to {max(ranks)}"


def _one_line(error: RankError) -> str:
    """Give the first line of a message for people, the last of a traceback."""
    lines = error.message.strip().splitlines() or error.traceback.strip().splitlines()[-1:]
    return next(iter(lines), "an error without words")


def _clock(time_s: float) -> str:
    return datetime.fromtimestamp(time_s).strftime("%Y-%m-%d %H:%M:%S")


_ORDER = "launch.json"  # in a snapshot: what the jobs asked for


def next_command(report: Report) -> str:
    """Give the command that helps most now."""
    path, state = shlex.quote(str(report.run.path)), report.verdict.state
    if state in LIVE:
        return f"trichord logs {path} --follow"
    if state == State.FINISHED:
        return f"trichord plot {path}" if report.run.figures else f"trichord logs {path}"
    if state == State.UNKNOWN and report.events:
        return f"trichord logs {path}"
    if state == State.FAILED and report.run.logs():
        rank = f" --rank {report.error.rank}" if report.error and report.error.rank else ""
        return f"trichord logs {path}{rank}; when that is mended: {_again(report.run)}"
    return _again(report.run)


def _again(run: RunRecord) -> str:
    """Give the command that goes on with a run."""
    submitted = next((event for event in reversed(run.history) if isinstance(event, Submitted)), None)
    config = RunFolder(run.path).config
    by_config = (_verb(config), str(config), "--run", str(run.path))
    if submitted is None:
        return shlex.join(["trichord", *by_config])
    # One run of a sweep bears the sweep's words; only its own config names it alone.
    is_of_sweep = "_" in submitted.job_id and submitted.words[0] == by_config[0] and config.exists()
    cluster = [] if submitted.cluster == "slurm" else ["--cluster", submitted.cluster]
    options = list(_options(_settings(run, submitted)))
    return shlex.join(["trichord", "launch", *cluster, *options, *(by_config if is_of_sweep else submitted.words)])


def _verb(config: Path) -> str:
    """Say which command goes on with a run of these settings."""
    from trichord.finetune.recipe import (
        is_for_heads,  # brings all settings there are, which only a run that stopped needs
    )

    return "finetune" if config.exists() and is_for_heads(str(config)) else "pretrain"


def _settings(run: RunRecord, submitted: Submitted) -> dict[str, Any]:
    """Read what the job asked for; of a sweep it stands in the sweep's folder."""
    for folder in (run.path, run.path.parent):
        try:
            order = json.loads((RunFolder(folder).snapshots / submitted.snapshot / _ORDER).read_text())
        except (OSError, ValueError):
            continue
        return dict(order.get("settings") or {})
    return {"nodes": submitted.nodes}


def _options(settings: dict[str, Any]) -> Iterator[str]:
    for name, field in Settings.model_fields.items():
        value = settings.get(name)
        if value in (None, {}, []) or value == field.default:
            continue
        values = [f"{key}={_word(each)}" for key, each in value.items()] if isinstance(value, dict) else value
        for each in values if isinstance(values, list) else [values]:
            option = f"--{name.replace('_', '-')}"
            yield from [f"{option}={each}"] if str(each).startswith("-") else [option, str(each)]


def _word(value: object) -> str:
    return "true" if value is True else str(value)
