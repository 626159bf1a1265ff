"""`trichord bench learning`: the command."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from shards.command import Command, add_json, at_least
from shards.console import show_figures

_CLIPS = {"svt": 4000, "av_prototypes": 2400, "video_text": 2400}


def _declare(parser: ArgumentParser) -> None:
    parser.add_argument("--objective", choices=_CLIPS, default="svt", help="what to pretrain with")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/learning"), metavar="DIR", help="keeps the world and the runs"
    )
    parser.add_argument("--seeds", type=at_least(1), default=3, metavar="N", help="how many runs")
    parser.add_argument(
        "--clips", type=at_least(100), metavar="N", help="how many to generate (default: 4000 for svt, else 2400)"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="a.b=c", help="settings that differ from the recipe, such as svt_world"
    )
    add_json(parser)


def _run(arguments: Namespace) -> int:
    seeds = range(arguments.seeds)
    clips = arguments.clips or _CLIPS[arguments.objective]
    if arguments.objective == "av_prototypes":
        from pretrain.bench.av_learning_report import run_and_report as report_both_senses

        tables = report_both_senses(arguments.out, seeds, clips, arguments.overrides)
    elif arguments.objective == "video_text":
        from pretrain.bench.video_text_learning_report import run_and_report as report_texts

        tables = report_texts(arguments.out, seeds, clips, arguments.overrides)
    else:
        from pretrain.bench.learning_report import run_and_report

        tables = run_and_report(arguments.out, arguments.objective, seeds, clips, arguments.overrides)
    for title, rows in tables.items():
        show_figures(title, rows, arguments.json)
    return 0


LEARNING = Command(
    "learning",
    "pretrain on the generated world and measure what was learnt: its factors, which sound or caption is whose",
    _declare,
    _run,
    (
        "trichord bench learning --objective svt",
        "trichord bench learning --objective av_prototypes --out runs/av-learning",
        "trichord bench learning --objective video_text --out runs/told",
        "trichord bench learning --seeds 1 --out runs/quick --clips 1000 steps=200",
    ),
)
