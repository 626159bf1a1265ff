"""The pretraining commands: pretrain a recipe, replay a failed step, export weights."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trichord.core.command import Command, add_json, at_least
from trichord.core.console import show_figures

if TYPE_CHECKING:
    from trichord.core.job import Job
    from trichord.pretrain.config import RunConfig


def declare_training(parser: ArgumentParser) -> None:
    """Declare the arguments of every command that trains a recipe."""
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe's name (`trichord show` lists them) or a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings that differ from the recipe")
    parser.add_argument(
        "--run",
        dest="run_folder",
        type=Path,
        metavar="DIR",
        help="folder of the run; resumes if it holds checkpoints (default: runs/RECIPE)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print sizes, memory, steps and hours without training")
    parser.add_argument(
        "--as-ranks", type=at_least(1), default=1, metavar="N", help="number of ranks assumed in a dry run"
    )
    parser.add_argument(
        "--device", metavar="NAME", help="device assumed in a dry run, such as h200 (default: this machine's)"
    )
    parser.add_argument(
        "--mfu", type=float, default=0.4, metavar="X", help="share of the device's peak FLOP/s assumed in a dry run"
    )
    parser.add_argument("--like", type=Path, metavar="RUN", help="use the clips/s measured by this run in a dry run")
    add_json(parser)


def _run_pretrain(arguments: Namespace) -> int:
    from trichord.pretrain.recipe import load_recipe

    return run_training(load_recipe(arguments.recipe, arguments.overrides).config, arguments)


def run_training(config: RunConfig, arguments: Namespace) -> int:
    """Train the config, or print its estimate in a dry run; return the exit status."""
    if arguments.dry_run:
        from trichord.pretrain.engine.estimate import show_estimate

        return show_estimate(config, arguments)
    from trichord.pretrain.engine.signals import listening
    from trichord.pretrain.job import run_folder

    with listening():  # also while torch loads and the process group is created
        return _train(config, run_folder(arguments), arguments.json)


def _train(config: RunConfig, run: Path, as_json: bool) -> int:
    from trichord.pretrain.engine.allocator import apply

    apply()
    from trichord.core.errors import Interrupted
    from trichord.pretrain.collectives import rank
    from trichord.pretrain.engine.distributed import leave_world
    from trichord.pretrain.engine.run import pretrain

    # Leave only where all ranks leave: it waits for the others, and a failed rank must report its error at once.
    try:
        figures = pretrain(config, run)
    except Interrupted:
        leave_world()
        raise
    if rank() == 0:
        show_figures("the last steps", [figures], as_json)
    leave_world()
    return 0


def _pretrain_job(arguments: Namespace) -> Job:
    from trichord.pretrain.job import pretrain_job

    return pretrain_job(arguments)


def _declare_replay(parser: ArgumentParser) -> None:
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="folder of a run that stopped at a failed step")
    parser.add_argument("--step", type=at_least(0), metavar="N", help="which failed step (default: the newest)")
    parser.add_argument(
        "--rank", type=at_least(0), metavar="R", help="rank whose samples to replay (default: the first that failed)"
    )
    add_json(parser)


def _run_replay(arguments: Namespace) -> int:
    from trichord.pretrain.config import RunConfig

    return run_replay(arguments, RunConfig.model_validate)


def run_replay(arguments: Namespace, read: Callable[[Any], RunConfig]) -> int:
    """Repeat a failed step and print where it is not finite; `read` parses the config stored in a checkpoint."""
    from trichord.pretrain.engine.finite import replay

    rows = replay(arguments.run_folder, arguments.step, arguments.rank, read)
    if not rows:
        print("everything is finite on this machine; the device or its kernels differ from the run's", file=sys.stderr)
        return 0
    show_figures("not finite, in the order of the computation", rows, arguments.json)
    return 1


def _declare_export(parser: ArgumentParser) -> None:
    parser.add_argument(
        "run_folder", type=Path, metavar="RUN", help="folder of a run, whose newest complete checkpoint is exported"
    )
    parser.add_argument("--format", choices=("safetensors", "hf"), default="safetensors", help="format of the weights")
    parser.add_argument(
        "--part", metavar="NAME", help="network to export (default: the one that the objective trains for later use)"
    )
    parser.add_argument("--out", type=Path, metavar="PATH", help="file, or folder for hf (default: beside the run)")
    add_json(parser)


def _run_export(arguments: Namespace) -> int:
    from trichord.pretrain.config import RunConfig

    return run_export(arguments, RunConfig.model_validate)


def run_export(arguments: Namespace, read: Callable[[Any], RunConfig]) -> int:
    """Export a run's weights; `read` parses the config stored in a checkpoint."""
    from trichord.pretrain.weights.export import export

    row = export(arguments.run_folder, arguments.format, arguments.part, arguments.out, read)
    show_figures("exported, loaded back and compared", [row], arguments.json)
    return 0


PRETRAIN = Command(
    "pretrain",
    "pretrain a recipe, resuming from the checkpoints in the run folder",
    declare_training,
    _run_pretrain,
    (
        "trichord pretrain svt_quickstart data.sources=shards/train --run runs/first",
        "torchrun --nproc-per-node 8 -m trichord -- pretrain svt_paper data.sources=k400/train init_from=null",
        "trichord pretrain svt_paper data.sources=k400/train init_from=null --dry-run --as-ranks 32 --device h200",
    ),
    _pretrain_job,
)
REPLAY = Command(
    "replay",
    "repeat a failed step and show where values stop being finite",
    _declare_replay,
    _run_replay,
    ("trichord replay runs/first",),
)
EXPORT = Command(
    "export",
    "export a run's weights and verify that they load",
    _declare_export,
    _run_export,
    ("trichord export runs/first", "trichord export runs/first --format hf --out exported"),
)
