"""`trichord bench learning`: the command, and what this floor pretrains and measures with it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from trichord.core.command import Command, add_json, at_least
from trichord.core.console import show_figures

Tables = Mapping[str, list[dict[str, object]]]  # by their titles
Report = Callable[[Path, Sequence[int], int, Sequence[str]], Tables]  # of a folder, seeds, clips and overrides


class Study(NamedTuple):
    """What is measured under the name of an objective, on how many clips if nobody says, and how it is called."""

    clips: int
    report: Report
    example: str


def _svt(out: Path, seeds: Sequence[int], clips: int, overrides: Sequence[str]) -> Tables:
    from trichord.pretrain.bench.learning_report import run_and_report

    return run_and_report(out, "svt", seeds, clips, overrides)


def _av_prototypes(out: Path, seeds: Sequence[int], clips: int, overrides: Sequence[str]) -> Tables:
    from trichord.pretrain.bench.av_learning_report import run_and_report

    return run_and_report(out, seeds, clips, overrides)


def _video_text(out: Path, seeds: Sequence[int], clips: int, overrides: Sequence[str]) -> Tables:
    from trichord.pretrain.bench.video_text_learning_report import run_and_report

    return run_and_report(out, seeds, clips, overrides)


STUDIES: dict[str, Study] = {
    "svt": Study(4000, _svt, "trichord bench learning --objective svt"),
    "av_prototypes": Study(
        2400, _av_prototypes, "trichord bench learning --objective av_prototypes --out runs/av-learning"
    ),
    "video_text": Study(2400, _video_text, "trichord bench learning --objective video_text --out runs/told"),
}


def learning_command(studies: Mapping[str, Study]) -> Command:
    """Make the command of these studies, of which the first is taken if nobody says."""
    examples = (*(study.example for study in studies.values()), _QUICK)
    return Command("learning", _SUMMARY, partial(_declare, studies), partial(_run, studies), examples)


def _declare(studies: Mapping[str, Study], parser: ArgumentParser) -> None:
    counts = ", ".join(f"{study.clips} for {name}" for name, study in studies.items())
    parser.add_argument("--objective", choices=studies, default=next(iter(studies)), help="what is to be learnt")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/learning"), metavar="DIR", help="keeps the world and the runs"
    )
    parser.add_argument("--seeds", type=at_least(1), default=3, metavar="N", help="how many runs")
    parser.add_argument("--clips", type=at_least(100), metavar="N", help=f"how many to generate (default: {counts})")
    parser.add_argument(
        "overrides", nargs="*", metavar="a.b=c", help="settings that differ from the recipe, such as svt_world"
    )
    add_json(parser)


def _run(studies: Mapping[str, Study], arguments: Namespace) -> int:
    study = studies[arguments.objective]
    clips = arguments.clips or study.clips
    tables = study.report(arguments.out, range(arguments.seeds), clips, arguments.overrides)
    for title, rows in tables.items():
        show_figures(title, rows, arguments.json)
    return 0


_SUMMARY = (
    "train on the generated world and measure what was learnt: factors, whose sound or caption, actions, captions"
)
_QUICK = "trichord bench learning --seeds 1 --out runs/quick --clips 1000 steps=200"
