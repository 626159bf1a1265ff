"""Commands to train, evaluate and compare heads; and the pretraining commands, extended to runs of heads."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from trichord.core.command import Command, add_json, at_least
from trichord.core.console import show_figures
from trichord.pretrain import commands as pretrain_commands
from trichord.pretrain import show_command

if TYPE_CHECKING:
    from trichord.core.job import Job
    from trichord.finetune.config import FinetuneConfig


def _run_finetune(arguments: Namespace) -> int:
    from trichord.finetune.recipe import load_finetune_recipe

    config = load_finetune_recipe(arguments.recipe, arguments.overrides).config
    config.objective.check(config)
    if config.features is not None and not arguments.dry_run:
        _keep_features(config)
    return pretrain_commands.run_training(config, arguments)


def _keep_features(config: FinetuneConfig) -> None:
    from trichord.pretrain.engine.allocator import apply

    apply()
    import torch

    from trichord.finetune.features import fill
    from trichord.pretrain.engine.allocator import thread_plan
    from trichord.pretrain.engine.distributed import join_world

    world = join_world()
    torch.set_num_threads(thread_plan(world.place.local_size))
    fill(config, world)


def _finetune_job(arguments: Namespace) -> Job:
    from trichord.finetune.job import finetune_job

    return finetune_job(arguments)


def _declare_evaluate(parser: ArgumentParser) -> None:
    parser.add_argument(
        "run_folder", type=Path, metavar="RUN", help="run folder; its newest complete checkpoint is used"
    )
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings to change, such as test views")
    parser.add_argument(
        "--data", nargs="+", default=[], metavar="SHARDS", help="shard sets to test on (default: those of the run)"
    )
    parser.add_argument("--batch-size", type=at_least(1), default=8, metavar="N", help="clips per batch on each rank")
    parser.add_argument(
        "--name", metavar="NAME", help="file name before the step (default: the names of the set folders)"
    )
    parser.add_argument(
        "--pictures", choices=("png", "svg", "none"), default="png", help="format in which figures are drawn"
    )
    add_json(parser)


def _run_evaluate(arguments: Namespace) -> int:
    from trichord.pretrain.engine.allocator import apply

    apply()
    from trichord.finetune.evaluate import evaluate
    from trichord.pretrain.collectives import rank
    from trichord.pretrain.engine.distributed import leave_world

    pictures = None if arguments.pictures == "none" else arguments.pictures
    found = evaluate(
        arguments.run_folder, arguments.data, arguments.overrides, arguments.name, pictures, arguments.batch_size
    )
    if rank() == 0:
        counts = {name: found[name] for name in ("run", "step", "clips", "bad", "silent", "views") if name in found}
        row = {**counts, **found["model"], **found["metrics"], "written": found["files"][0]}
        show_figures("evaluated", [row], arguments.json)
    leave_world()
    return 0


def _evaluate_job(arguments: Namespace) -> Job:
    from trichord.finetune.evaluate_job import evaluate_job

    return evaluate_job(arguments)


def _declare_compare(parser: ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of evaluated runs or of sweeps")
    add_json(parser)


def _run_compare(arguments: Namespace) -> int:
    from trichord.finetune.evaluation_report import comparison, read_reports

    rows = comparison([report for run in arguments.runs for report in read_reports(run)])
    show_figures("evaluations", rows, arguments.json)
    return 0


def _run_show(arguments: Namespace) -> int:
    from trichord.finetune.recipe import FINETUNING, is_for_heads
    from trichord.pretrain.recipe import PRETRAINING

    is_finetuning = arguments.recipe is not None and is_for_heads(arguments.recipe)
    return show_command.show(arguments, (FINETUNING, PRETRAINING) if is_finetuning else (PRETRAINING, FINETUNING))


def _run_replay(arguments: Namespace) -> int:
    from trichord.finetune.config import read_config

    return pretrain_commands.run_replay(arguments, read_config)


def _run_export(arguments: Namespace) -> int:
    from trichord.finetune.config import read_config

    return pretrain_commands.run_export(arguments, read_config)


FINETUNE = Command(
    "finetune",
    "train a head or a captioner, alone or with the backbone; resumes if the run folder holds checkpoints",
    pretrain_commands.declare_training,
    _run_finetune,
    (
        "trichord finetune linear_probe init_from.path=runs/first data.sources=shards/train --run runs/probe",
        "trichord finetune fine_tuning init_from.path=runs/first data.sources=shards/train --run runs/tuned",
        "trichord finetune captions init_from.path=runs/first data.sources=shards/train --run runs/captions",
        "torchrun --nproc-per-node 8 -m trichord -- finetune kinetics_fine_tuning init_from.path=runs/svt "
        "data.sources=k400/train",
    ),
    _finetune_job,
)
EVALUATE = Command(
    "evaluate",
    "test the head or captioner of a run on shards, every clip once, and write the figures",
    _declare_evaluate,
    _run_evaluate,
    (
        "trichord evaluate runs/probe --data shards/val",
        "trichord evaluate runs/probe --data shards/val objective.test_clips.clips=10 --name ten_clips",
        "trichord evaluate runs/captions --data shards/val objective.decoding.kind=nucleus --name drawn",
        "torchrun --nproc-per-node 8 -m trichord -- evaluate runs/tuned --data k400/val",
        "trichord launch --gpus-per-node 8 evaluate runs/tuned --data k400/val",
    ),
    _evaluate_job,
)
COMPARE = Command(
    "compare",
    "print the evaluations of several runs as one table",
    _declare_compare,
    _run_compare,
    ("trichord compare runs/probe runs/tuned",),
)
SHOW = replace(show_command.SHOW, run=_run_show)
REPLAY = replace(pretrain_commands.REPLAY, run=_run_replay)
EXPORT = replace(pretrain_commands.EXPORT, run=_run_export)
