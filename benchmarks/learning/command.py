"""`python -m benchmarks learning`: trains on the synthetic data set and measures what was learnt."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
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
    from benchmarks.learning.svt_report import run_and_report

    return run_and_report(out, "svt", seeds, clips, overrides)


def _av_prototypes(out: Path, seeds: Sequence[int], clips: int, overrides: Sequence[str]) -> Tables:
    from benchmarks.learning.av_prototypes_report import run_and_report

    return run_and_report(out, seeds, clips, overrides)


def _video_text(out: Path, seeds: Sequence[int], clips: int, overrides: Sequence[str]) -> Tables:
    from benchmarks.learning.video_text_report import run_and_report

    return run_and_report(out, seeds, clips, overrides)


def _charades(out: Path, seeds: Sequence[int], clips: int, overrides: Sequence[str]) -> Tables:
    from benchmarks.learning.charades import run_and_report

    return run_and_report(out, seeds, clips, overrides)


def _captions(out: Path, seeds: Sequence[int], clips: int, overrides: Sequence[str]) -> Tables:
    from benchmarks.learning.captions import run_and_report

    return run_and_report(out, seeds, clips, overrides)


def _variants(out: Path, seeds: Sequence[int], clips: int, overrides: Sequence[str]) -> Tables:
    from benchmarks.learning.variants import run_and_report

    return run_and_report(out, seeds, clips, overrides)


_HEAD_CLIPS = 1600
_STUDIES: dict[str, Study] = {
    "svt": Study(4000, _svt, "python -m benchmarks learning --objective svt"),
    "av_prototypes": Study(
        2400, _av_prototypes, "python -m benchmarks learning --objective av_prototypes --out runs/av-learning"
    ),
    "video_text": Study(2400, _video_text, "python -m benchmarks learning --objective video_text --out runs/told"),
    "charades": Study(_HEAD_CLIPS, _charades, "python -m benchmarks learning --objective charades --out runs/heads"),
    "captions": Study(_HEAD_CLIPS, _captions, "python -m benchmarks learning --objective captions --out runs/heads"),
    "variants": Study(
        _HEAD_CLIPS, _variants, "python -m benchmarks learning --objective variants --out runs/heads --seeds 1"
    ),
}


def _declare(parser: ArgumentParser) -> None:
    counts = ", ".join(f"{study.clips} for {name}" for name, study in _STUDIES.items())
    parser.add_argument("--objective", choices=_STUDIES, default=next(iter(_STUDIES)), help="what is to be learnt")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/learning"), metavar="DIR", help="keeps the world and the runs"
    )
    parser.add_argument("--seeds", type=at_least(1), default=3, metavar="N", help="how many runs")
    parser.add_argument("--clips", type=at_least(100), metavar="N", help=f"how many to generate (default: {counts})")
    parser.add_argument(
        "overrides", nargs="*", metavar="a.b=c", help="settings that differ from the recipe, such as svt_world"
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
    "train on the synthetic data set and measure what was learnt: factors, matching sounds and captions, actions",
    _declare,
    _run,
    (
        *(study.example for study in _STUDIES.values()),
        "python -m benchmarks learning --seeds 1 --out runs/quick --clips 1000 steps=200",
    ),
)
