"""The commands that manage runs: `status`, `logs` and `cancel`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from trichord.core.command import Command, add_json, at_least

_LINES = 100


def _declare_status(parser: ArgumentParser) -> None:
    what = "folders of runs or sweeps; runs named here are shown in detail (default: all below ./runs and here)"
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help=what)
    add_json(parser)


def _run_status(arguments: Namespace) -> int:
    from trichord.launch.status import show_status

    show_status(arguments.runs, arguments.json)
    return 0


def _declare_logs(parser: ArgumentParser) -> None:
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--rank", type=at_least(0), default=0, metavar="R", help="rank whose log to show")
    parser.add_argument("--job", metavar="ID", help="job whose log to show (default: the newest)")
    parser.add_argument("--lines", type=at_least(0), default=_LINES, metavar="N", help="number of lines from the end")
    parser.add_argument("--follow", action="store_true", help="keep printing as the log grows, until the job ends")


def _run_logs(arguments: Namespace) -> int:
    from trichord.launch.logs import show_log

    show_log(arguments.run_folder, arguments.rank, arguments.job, arguments.lines, arguments.follow)
    return 0


def _declare_cancel(parser: ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folders of runs, or of sweeps with all their runs"
    )
    parser.add_argument("--now", action="store_true", help="end them at once; unsaved work is lost")


def _run_cancel(arguments: Namespace) -> int:
    from trichord.launch.cancel import cancel_runs

    cancel_runs(arguments.runs, arguments.now)
    return 0


STATUS = Command(
    "status",
    "show runs: state, step, speed, restarts, last error and the next command",
    _declare_status,
    _run_status,
    ("trichord status", "trichord status runs/svt", "trichord status runs/sweep --json"),
)
LOGS = Command(
    "logs",
    "show the log of a rank of a run",
    _declare_logs,
    _run_logs,
    ("trichord logs runs/svt --follow", "trichord logs runs/svt --rank 3 --lines 500"),
)
CANCEL = Command(
    "cancel",
    "ask runs to save and end, or remove them from the queue",
    _declare_cancel,
    _run_cancel,
    ("trichord cancel runs/svt", "trichord cancel runs/sweep --now"),
)
