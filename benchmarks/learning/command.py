"""`python -m benchmarks learning`: trains on the synthetic data set and evaluates the result."""

from __future__ import annotations

import importlib
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from trichord.core.command import Command, add_json, at_least
from trichord.core.console import show_figures

Tables = Mapping[str, list[dict[str, object]]]  # by their titles
# Called with the folder, the seeds, the number of clips and the overrides.
Report = Callable[[Path, Sequence[int], int, Sequence[str]], Tables]


class Study(NamedTuple):
    """An experiment: its default number of clips, the function that runs it, and an example of its command."""

    clips: int
    report: Report
    example: str


def _report(module: str, function: str = "run_and_report", *objective: str) -> Report:
    """Return a function that imports an experiment, which takes seconds, when it is run."""

    def run(out: Path, seeds: Sequence[int], clips: int, overrides: Sequence[str]) -> Tables:
        experiment = getattr(importlib.import_module(f"benchmarks.learning.{module}"), function)
        tables: Tables = experiment(out, *objective, seeds, clips, overrides)
        return tables

    return run


_HEAD_CLIPS = 1600
_STUDIES: dict[str, Study] = {
    "svt": Study(4000, _report("svt_report", "run_and_report", "svt"), "python -m benchmarks learning --objective svt"),
    "av_prototypes": Study(
        2400, _report("av_prototypes"), "python -m benchmarks learning --objective av_prototypes --out runs/av-learning"
    ),
    "video_text": Study(
        2400, _report("video_text"), "python -m benchmarks learning --objective video_text --out runs/video-text"
    ),
    "charades": Study(
        _HEAD_CLIPS, _report("charades"), "python -m benchmarks learning --objective charades --out runs/heads"
    ),
    "captions": Study(
        _HEAD_CLIPS, _report("captions"), "python -m benchmarks learning --objective captions --out runs/heads"
    ),
    "variants": Study(
        _HEAD_CLIPS,
        _report("captions", "run_and_report_variants"),
        "python -m benchmarks learning --objective variants --out runs/heads --seeds 1",
    ),
}


def _declare(parser: ArgumentParser) -> None:
    counts = ", ".join(f"{study.clips} for {name}" for name, study in _STUDIES.items())
    parser.add_argument("--objective", choices=_STUDIES, default=next(iter(_STUDIES)), help="the experiment")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/learning"), metavar="DIR", help="folder for the clips and the runs"
    )
    parser.add_argument("--seeds", type=at_least(1), default=3, metavar="N", help="number of seeds, a run each")
    parser.add_argument(
        "--clips", type=at_least(100), metavar="N", help=f"number of clips to generate (default: {counts})"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="a.b=c", help="settings that differ from the recipe, such as svt_synthetic"
    )
    add_json(parser)


def _run(arguments: Namespace) -> int:
    study = _STUDIES[arguments.objective]
    clips = arguments.clips or study.clips
    tables = study.report(arguments.out, range(arguments.seeds), clips, arguments.overrides)
    for title, rows in tables.items():
        show_figures(title, rows, arguments.json)
    return 0


LEARNING = Command(
    "learning",
    "train on the synthetic data set and evaluate the result: factors, retrieval, captions, actions",
    _declare,
    _run,
    (
        *(study.example for study in _STUDIES.values()),
        "python -m benchmarks learning --seeds 1 --out runs/quick --clips 1000 steps=200",
    ),
)
