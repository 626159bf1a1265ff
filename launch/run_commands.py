"""The commands for living with runs: how they stand, what they say, and how to end them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from trichord.core.command import Command, add_json, at_least

_LINES = 100


def _declare_status(parser: ArgumentParser) -> None:
    what = "folders of runs or of sweeps; those named are told of at length (default: all below ./runs and here)"
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help=what)
    add_json(parser)


def _run_status(arguments: Namespace) -> int:
    from trichord.launch.status import show_status

    show_status(arguments.runs, arguments.json)
    return 0


def _declare_logs(parser: ArgumentParser) -> None:
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--rank", type=at_least(0), default=0, metavar="R", help="whose log")
    parser.add_argument("--job", metavar="ID", help="of which job (default: the newest)")
    parser.add_argument("--lines", type=at_least(0), default=_LINES, metavar="N", help="how many from the end")
    parser.add_argument("--follow", action="store_true", help="go on as the log grows, until the job ends")


def _run_logs(arguments: Namespace) -> int:
    from trichord.launch.logs import show_log

    show_log(arguments.run_folder, arguments.rank, arguments.job, arguments.lines, arguments.follow)
    return 0


def _declare_cancel(parser: ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs, or of sweeps with all runs")
    parser.add_argument("--now", action="store_true", help="end them where they are; what was not saved is lost")


def _run_cancel(arguments: Namespace) -> int:
    from trichord.launch.cancel import cancel_runs

    cancel_runs(arguments.runs, arguments.now)
    return 0


STATUS = Command(
    "status",
    "say how runs stand: state, step, speed, restarts, last error, and what to type next",
    _declare_status,
    _run_status,
    ("trichord status", "trichord status runs/svt", "trichord status runs/sweep --json"),
)
LOGS = Command(
    "logs",
    "show what a rank of a run wrote",
    _declare_logs,
    _run_logs,
    ("trichord logs runs/svt --follow", "trichord logs runs/svt --rank 3 --lines 500"),
)
CANCEL = Command(
    "cancel",
    "let runs save and end, or take them from the queue",
    _declare_cancel,
    _run_cancel,
    ("trichord cancel runs/svt", "trichord cancel runs/sweep --now"),
)
