"""The commands of `trichord` in the order of its help: a line for each, or an entry point of a plug-in.

Those that can run as cluster jobs are parsed on the login node at the launch, and again in the job.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trichord.core.command import Command, add_json, at_least
from trichord.core.parser import CommandParser, add_command, add_group
from trichord.core.registry import Registry
from trichord.finetune.retrieval import commands as retrieval_commands
from trichord.pretrain import commands as pretrain_commands
from trichord.shards import commands as shards_commands
from trichord.shards.reading.root import permitted

_LINES = 100


@dataclass(frozen=True)
class CommandGroup:
    """Commands under a common first word."""

    name: str
    summary: str
    commands: Sequence[Command]


def _declare_quickstart(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("quickstart"), metavar="DIR", help="folder for all outputs")
    parser.add_argument("--samples", type=at_least(20), default=120, metavar="N", help="number of clips to generate")
    add_json(parser)


def _declare_status(parser: ArgumentParser) -> None:
    what = "folders of runs or sweeps; runs named here are shown in detail (default: all below ./runs and here)"
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help=what)
    add_json(parser)


def _declare_logs(parser: ArgumentParser) -> None:
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--rank", type=at_least(0), default=0, metavar="R", help="rank whose log to show")
    parser.add_argument("--job", metavar="ID", help="job whose log to show (default: the newest)")
    parser.add_argument("--lines", type=at_least(0), default=_LINES, metavar="N", help="number of lines from the end")
    parser.add_argument("--follow", action="store_true", help="keep printing as the log grows, until the job ends")


def _declare_cancel(parser: ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folders of runs, or of sweeps with all their runs"
    )
    parser.add_argument("--now", action="store_true", help="end them at once; unsaved work is lost")


QUICKSTART = Command(
    "quickstart",
    "run the whole workflow at small scale on synthetic data, on the CPU",
    _declare_quickstart,
    "trichord.launch.quickstart:run_quickstart",
    ("trichord quickstart", "trichord quickstart --out somewhere --samples 40"),
)
DOCTOR = Command(
    "doctor",
    "check this machine and print how to fix what is wrong",
    add_json,
    "trichord.launch.doctor:run_doctor",
    ("trichord doctor", "trichord doctor --json"),
)
LAUNCH = Command(
    "launch",
    "run a command on a cluster; save, requeue and resume around limits and failures",
    "trichord.launch.launch_command:declare",
    "trichord.launch.launch_command:run_launch",
    (
        "trichord launch --nodes 4 --gpus-per-node 8 --cpus-per-task 12 --time 1-00:00:00 "
        "pretrain svt_paper data.sources=k400/train init_from=null",
        "trichord launch --gpus-per-node 8 --dry-run pretrain svt_paper data.sources=k400/train init_from=null",
        "trichord launch --gpus-per-node 8 pretrain svt_paper data.sources=k400/train init_from=null seed=0,1,2",
        "trichord launch --cluster local --tasks-per-node 2 pretrain svt_quickstart data.sources=shards/train",
        "trichord launch --array 16 --cpus-per-task 8 shards build kinetics --root k400 --out shards --mode encode",
    ),
)
STATUS = Command(
    "status",
    "show runs: state, step, speed, restarts, last error and the next command",
    _declare_status,
    "trichord.launch.status:run_status",
    ("trichord status", "trichord status runs/svt", "trichord status runs/sweep --json"),
)
LOGS = Command(
    "logs",
    "show the log of a rank of a run",
    _declare_logs,
    "trichord.launch.logs:run_logs",
    ("trichord logs runs/svt --follow", "trichord logs runs/svt --rank 3 --lines 500"),
)
CANCEL = Command(
    "cancel",
    "ask runs to save and end, or remove them from the queue",
    _declare_cancel,
    "trichord.launch.cancel:run_cancel",
    ("trichord cancel runs/svt", "trichord cancel runs/sweep --now"),
)
SHARDS = CommandGroup("shards", shards_commands.SUMMARY, shards_commands.COMMANDS)
INDEX = CommandGroup("index", retrieval_commands.INDEX_SUMMARY, retrieval_commands.INDEX_COMMANDS)
WEIGHTS = CommandGroup("weights", pretrain_commands.WEIGHTS_SUMMARY, (pretrain_commands.INSPECT,))

COMMANDS: Registry[Command | CommandGroup] = Registry(
    "commands",
    {
        "quickstart": f"{__name__}:QUICKSTART",
        "doctor": f"{__name__}:DOCTOR",
        "shards": f"{__name__}:SHARDS",
        "launch": f"{__name__}:LAUNCH",
        "status": f"{__name__}:STATUS",
        "logs": f"{__name__}:LOGS",
        "cancel": f"{__name__}:CANCEL",
        "pretrain": "trichord.pretrain.commands:PRETRAIN",
        "finetune": "trichord.finetune.commands:FINETUNE",
        "evaluate": "trichord.finetune.commands:EVALUATE",
        "zeroshot": "trichord.finetune.commands:ZEROSHOT",
        "compare": "trichord.finetune.commands:COMPARE",
        "embed": "trichord.finetune.retrieval.commands:EMBED",
        "index": f"{__name__}:INDEX",
        "search": "trichord.finetune.retrieval.commands:SEARCH",
        "retrieval": "trichord.finetune.retrieval.commands:RETRIEVAL",
        "serve": "trichord.finetune.commands:SERVE",
        "visualise": "trichord.finetune.commands:VISUALISE",
        "show": "trichord.finetune.commands:SHOW",
        "plot": "trichord.pretrain.commands:PLOT",
        "replay": "trichord.finetune.commands:REPLAY",
        "export": "trichord.finetune.commands:EXPORT",
        "models": "trichord.pretrain.commands:MODELS",
        "weights": f"{__name__}:WEIGHTS",
    },
)


def _top_level() -> list[Command]:
    return [each for each in COMMANDS.values() if isinstance(each, Command) and each.job]


def _groups() -> list[CommandGroup]:
    """Return the groups with the commands that can run as jobs alone."""
    groups = [each for each in COMMANDS.values() if isinstance(each, CommandGroup)]
    found = [replace(each, commands=[command for command in each.commands if command.job]) for each in groups]
    return [each for each in found if each.commands]


def job_command_names() -> list[str]:
    """Return the names of the commands, as typed."""
    within = [f"{group.name} {command.name}" for group in _groups() for command in group.commands]
    return [*(command.name for command in _top_level()), *within]


def read_job_command(words: Sequence[str]) -> Namespace:
    """Parse a command line; the result's `command` is the Command."""
    parser = CommandParser(prog="trichord")
    subparsers = parser.add_subparsers(metavar="VERB", parser_class=CommandParser, required=True)
    for command in _top_level():
        add_command(subparsers, command)
    for group in _groups():
        add_group(subparsers, group.name, group.summary, group.commands, required=True)
    return parser.read(permitted(words))


def run_job_command(words: Sequence[str]) -> int:
    """Run one of the commands in this process and return its exit status; errors and interruptions are raised."""
    arguments = read_job_command(words)
    return int(arguments.run(arguments))
