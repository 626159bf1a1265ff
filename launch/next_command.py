"""What to type next, by the state that a run is in."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trichord.launch.cluster_file import Settings
from trichord.launch.history import SNAPSHOTS, Submitted
from trichord.launch.run_folder import RunFolder
from trichord.launch.run_state import LIVE, State
from trichord.launch.survey import Report

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


def _again(run: RunFolder) -> str:
    """Give the command that goes on with a run."""
    submitted = next((event for event in reversed(run.history) if isinstance(event, Submitted)), None)
    config = run.path / "config.yaml"
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


def _settings(run: RunFolder, submitted: Submitted) -> dict[str, Any]:
    """Read what the job asked for; of a sweep it stands in the sweep's folder."""
    for folder in (run.path, run.path.parent):
        try:
            order = json.loads((folder / SNAPSHOTS / submitted.snapshot / _ORDER).read_text())
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
