"""`python -m benchmarks reading`: the command."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from trichord.core.command import Command, add_json, at_least
from trichord.core.console import pulse, show_figures


def _declare(parser: ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder for the clips, which are generated once")
    contenders = "torchcodec,decord,pyav,webdataset"
    parser.add_argument("--against", default=contenders, metavar="NAME,NAME", help="tools to compare with")
    parser.add_argument("--rounds", type=at_least(2), default=5, metavar="N", help="number of timed rounds")
    add_json(parser)


def _run(arguments: Namespace) -> int:
    from benchmarks.reading.run import as_records, bench

    against = [name for name in arguments.against.split(",") if name]
    with pulse("measuring") as beat:
        rows = bench(arguments.folder, against, arguments.rounds, beat)
    show_figures("milliseconds of CPU time, side by side in one run", as_records(rows), arguments.json)
    return 0


READING = Command(
    "reading",
    "compare reading and decoding with other tools",
    _declare,
    _run,
    (
        "python -m benchmarks reading runs/bench",
        "python -m benchmarks reading runs/bench --against torchcodec,webdataset --rounds 9 --json",
    ),
)
