"""Commands to train, evaluate, compare and show heads; and the pretraining commands, extended to runs of heads."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from trichord.core.command import Command, add_json, add_out, at_least
from trichord.core.errors import UserError
from trichord.core.registry import load
from trichord.pretrain import commands as pretrain_commands
from trichord.pretrain.engine.allocator import applied_before

_OF_THE_PAGE = ("starlette", "uvicorn")  # packages of the extra `page`


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
        "--name",
        metavar="NAME",
        help="file name of the report, before the step (default: the names of the set folders)",
    )
    parser.add_argument(
        "--pictures", choices=("png", "svg", "none"), default="png", help="format in which figures are drawn"
    )
    add_json(parser)


def _declare_compare(parser: ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of evaluated runs or of sweeps")
    add_json(parser)


def _declare_visualise(parser: ArgumentParser) -> None:
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="a run of pretraining, of a head or of captions")
    parser.add_argument("source", metavar="VIDEO_OR_SHARDS", help="a video file, or a folder of shards")
    add_out(parser, "folder for the pictures, named after the keys of the clips")
    parser.add_argument(
        "--kind",
        choices=("attention", "pca"),
        default="attention",
        help="attention of the class token (without one: similarity of tokens to the pooled vector), or the first "
        "three principal components of a clip's tokens as colours",
    )
    parser.add_argument(
        "--count", type=at_least(1), default=4, metavar="N", help="number of clips from shards, spread over the set"
    )
    parser.add_argument(
        "--gif", dest="endings", action="append_const", const="gif", help="write GIFs (default: GIFs and PNGs)"
    )
    parser.add_argument("--png", dest="endings", action="append_const", const="png", help="write PNGs")
    add_json(parser)


def _port(text: str) -> int:
    number = at_least(0)(text)
    if number > 65535:
        raise ArgumentTypeError(f"found {text!r}, expected a port, 0 to 65535")
    return number


def _declare_serve(parser: ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="*",
        type=Path,
        metavar="RUN",
        help="runs: a head predicts actions and their timeline, a captioner a caption, a run of video and text embeds "
        "for the index; the token map is of the first run with video",
    )
    parser.add_argument("--index", type=Path, metavar="DIR", help="also search the nearest videos in this index")
    parser.add_argument(
        "--samples",
        metavar="SHARDS",
        help="shard set from which the page offers clips (default: the first run's training set, if it exists)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="NAME",
        help="address to listen on; 127.0.0.1 is for this machine only, others should have --token or --token-file",
    )
    parser.add_argument("--port", type=_port, default=8000, metavar="N", help="port to listen on; 0 takes a free port")
    access = parser.add_mutually_exclusive_group()
    access.add_argument(
        "--token",
        action="store_true",
        help="answer only those who know a new token, which the printed address contains",
    )
    access.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="answer only those who know the token in this file; browsers open /?token=TOKEN once, programs send the "
        "header Authorization: Bearer TOKEN",
    )
    parser.add_argument(
        "--max-megabytes", type=at_least(1), default=100, metavar="N", help="size limit of an uploaded video in MB"
    )
    parser.add_argument(
        "--max-seconds", type=at_least(1), default=300, metavar="N", help="length limit of an uploaded video in seconds"
    )


def _run_serve(arguments: Namespace) -> int:
    missing = [name for name in _OF_THE_PAGE if find_spec(name) is None]
    if missing:
        raise UserError(f"missing packages: {', '.join(missing)}. Next: pip install 'trichord[page]'")
    if not arguments.runs and arguments.index is None:
        raise UserError("nothing to serve: name a RUN, or --index DIR. Next: trichord status, which lists runs")
    print("starting: importing libraries, then loading runs", file=sys.stderr, flush=True)
    return applied_before("trichord.finetune.page.serving:run_serve")(arguments)


FINETUNE = Command(
    "finetune",
    "train a head or a captioner, alone or with the backbone; resumes if the run folder holds checkpoints",
    pretrain_commands.declare_training,
    "trichord.finetune.jobs:run_finetune",
    (
        "trichord finetune linear_probe init_from.path=runs/first data.sources=shards/train --run runs/probe",
        "trichord finetune fine_tuning init_from.path=runs/first data.sources=shards/train --run runs/tuned",
        "trichord finetune captions init_from.path=runs/first data.sources=shards/train --run runs/captions",
        "torchrun --nproc-per-node 8 -m trichord -- finetune kinetics_fine_tuning init_from.path=runs/svt "
        "data.sources=k400/train",
    ),
    "trichord.finetune.jobs:finetune_job",
)
EVALUATE = Command(
    "evaluate",
    "test the head or captioner of a run on shards, every clip once, and write the figures",
    _declare_evaluate,
    applied_before("trichord.finetune.evaluation.evaluate:run_evaluate"),
    (
        "trichord evaluate runs/probe --data shards/val",
        "trichord evaluate runs/probe objective.test_clips.clips=10 --data shards/val --name ten_clips",
        "trichord evaluate runs/captions objective.decoding.kind=nucleus --data shards/val --name drawn",
        "torchrun --nproc-per-node 8 -m trichord -- evaluate runs/tuned --data k400/val",
        "trichord launch --gpus-per-node 8 evaluate runs/tuned --data k400/val",
    ),
    "trichord.finetune.jobs:evaluate_job",
)
ZEROSHOT = Command(
    "zeroshot",
    "classify videos with texts only, or test that on shards",
    "trichord.finetune.zeroshot.command:declare",
    applied_before("trichord.finetune.zeroshot.run:run_zeroshot"),
    (
        'trichord zeroshot clip.mp4 --labels "opening a box,holding a book" --weights runs/video_text',
        "trichord zeroshot --data hmdb51/split1 hmdb51/split2 hmdb51/split3 --weights k400_16_8.pth",
        "trichord zeroshot --data ucf101/test --weights clip.safetensors --prompts openai_ucf101 --views 4x3",
        "trichord zeroshot --data k600/val --weights runs/xclip --new-to k400/train --draws 3x160",
        "trichord zeroshot --data k400/val --weights runs/tuned --wise-from clip.safetensors --alphas 0 0.5 1",
    ),
)
COMPARE = Command(
    "compare",
    "print the evaluations of several runs as one table",
    _declare_compare,
    "trichord.finetune.evaluation.report:run_compare",
    ("trichord compare runs/probe runs/tuned",),
)
VISUALISE = Command(
    "visualise",
    "draw a backbone's attention or its tokens over the frames of videos",
    _declare_visualise,
    applied_before("trichord.finetune.token_maps.visualise:run_visualise"),
    (
        "trichord visualise runs/first synthetic/videos/000000.mp4 --out pictures",
        "trichord visualise runs/probe shards/val --out pictures --kind pca --count 8 --gif",
    ),
)
SERVE = Command(
    "serve",
    "serve a page that shows actions, caption, token map and neighbours of an uploaded video",
    _declare_serve,
    _run_serve,
    (
        "trichord serve runs/probe runs/captions",
        "trichord serve runs/probe runs/video_text --index vectors/val/index --samples shards/val --port 8080",
        "trichord serve runs/probe --host 0.0.0.0 --token-file page.token",
        "curl --data-binary @clip.mp4 http://127.0.0.1:8000/api/look",
    ),
)


def _extended(command: Command, run: Callable[[Namespace], int] | str) -> Command:
    """Return a command of pretraining with another function, which also handles runs of heads."""
    return Command(command.name, command.summary, command.declare, run, command.examples)


def _of_any_run(place: str) -> Callable[[Namespace], int]:
    """Return a function of pretraining that reads the config of a run of any kind."""
    return lambda arguments: int(load(place)(arguments, load("trichord.finetune.config:read_config")))


SHOW = _extended(pretrain_commands.SHOW, "trichord.finetune.recipe:run_show")
REPLAY = _extended(pretrain_commands.REPLAY, _of_any_run("trichord.pretrain.engine.finite:run_replay"))
EXPORT = _extended(pretrain_commands.EXPORT, _of_any_run("trichord.pretrain.weights.export:run_export"))
