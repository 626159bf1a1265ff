"""Evaluation reports in a run's folder: JSON for programs, a Markdown table for people; and reading them for tables."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from trichord.core.command import command_line
from trichord.core.console import counted, plain_markdown, show_figures
from trichord.core.errors import UserError
from trichord.core.files import write_whole
from trichord.core.reading import mistake, read_object, skipping
from trichord.core.run_folder import RunFolder
from trichord.shards.reading.stream_config import SourceConfig

_CLASSES = ("top1", "top5", "mAP", "mAP_charades", "localisation_mAP_charades")
_OVERLAP = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-1", "ROUGE-2", "ROUGE-L", "METEOR", "CIDEr-D")
_CORRECT = ("right colour", "right shape", "right action", "right all three", "distinct captions")
_COMPARED = (*_CLASSES, *_OVERLAP, *_CORRECT)


class _Report(BaseModel):
    """What a comparison takes from an evaluation; any task may add to it."""

    run: str
    model: _Model
    data: list[str]
    clips: int
    step: int
    metrics: dict[str, Any]


class _Model(BaseModel):
    pretrained: Any
    backbone: Any
    inputs: Any
    head: Any
    trained: Any
    seed: Any


def label_of(sources: Sequence[SourceConfig]) -> str:
    """Return a name for a test: the folder names of its sets."""
    return "+".join(Path(source.root.rstrip("/")).name for source in sources)


def write_report(
    run: Path, name: str, found: Mapping[str, Any], captions: Sequence[Mapping[str, Any]] | None = None
) -> tuple[Path, ...]:
    """Write both files, and a third for captions if there are any; files of the same name are replaced."""
    folder = RunFolder(run).evaluations
    folder.mkdir(parents=True, exist_ok=True)
    as_json, as_table = folder / f"{name}.json", folder / f"{name}.md"
    write_whole(as_json, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    write_whole(as_table, to_markdown(found))
    if captions is None:
        return as_json, as_table
    as_lines = folder / f"{name}.captions.jsonl"
    write_whole(as_lines, "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in captions))
    return as_json, as_table, as_lines


def to_markdown(found: Mapping[str, Any]) -> str:
    """Format an evaluation as Markdown: data, model, views, figures, and figures of each class."""
    model = plain_markdown(", ".join(f"{name} {value}" for name, value in found["model"].items()))
    counts = [counted(found["clips"], "clip")] + [
        f"{found[each]} {each.replace('_', ' ')}" for each in ("bad", "silent", "without_caption") if each in found
    ]
    lines = [
        f"# {plain_markdown(str(found['run']))}, step {found['step']}",
        "",
        f"- data: {plain_markdown(', '.join(found['data']))} ({', '.join(counts)})",
        f"- model: {model}",
        f"- {plain_markdown(found['views'])}",
        *(f"- {plain_markdown(note)}" for note in found.get("notes", [])),
        "",
        *_table(found.get("figures") or [{"metric": name, "value": each} for name, each in found["metrics"].items()]),
        "",
    ]
    for rows in (found[name] for name in ("sets", "classes") if name in found):
        lines += [*_table(rows), ""]
    for picture in found.get("pictures", []):
        lines += [f"![{picture.split('.')[-2].replace('_', ' ')}]({picture})", ""]
    return "\n".join(lines)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    names = list(rows[0])
    return [
        f"| {' | '.join(map(plain_markdown, names))} |",
        f"|{'---|' * len(names)}",
        *(f"| {' | '.join(_cell(row.get(name)) for name in names)} |" for row in rows),
    ]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else plain_markdown(str(value))


def read_reports(run: Path) -> list[dict[str, Any]]:
    """Read all evaluations of a run, or of all runs directly below a folder, such as that of a sweep."""
    paths = sorted(RunFolder(run).evaluations.glob("*.json"))
    below = sorted(run.glob("*"))
    paths = paths or [path for each in below for path in sorted(RunFolder(each).evaluations.glob("*.json"))]
    if not paths:
        raise UserError(f"{run} holds no evaluation. Next: {command_line('evaluate', run, '--data', 'SHARDS')}")
    return [_read_report(path) for path in paths]


def _read_report(path: Path) -> dict[str, Any]:
    found = read_object(path, "Next: evaluate again, or remove it")
    try:
        _Report.model_validate(found)
    except ValidationError as error:
        raise UserError(f"{path} is no evaluation: {mistake(error)}") from error
    return found


def run_compare(arguments: Namespace) -> int:
    """Print the evaluations of the runs in parsed arguments as one table, without those that cannot be read."""
    reports, refused = skipping(arguments.runs, read_reports)
    show_figures("evaluations", comparison([each for of_run in reports for each in of_run]), arguments.json)
    return 1 if refused else 0


def comparison(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each evaluation: the model, the data and the figures.

    The figures are the main ones of trichord's tasks, and all of another task.
    """
    return [
        {
            "run": each["run"],
            **{name: each["model"][name] for name in ("pretrained", "backbone", "inputs", "head", "trained", "seed")},
            "data": ", ".join(each["data"]),
            "clips": each["clips"],
            "step": each["step"],
            **({name: each["metrics"][name] for name in each["metrics"] if name in _COMPARED} or each["metrics"]),
        }
        for each in reports
    ]
