"""`trichord visualise`: pictures of a backbone's attention or of its tokens."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from trichord.core.command import Command, add_json, add_out, at_least
from trichord.core.console import show_figures


def _declare(parser: ArgumentParser) -> None:
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
    parser.add_argument("--gif", dest="endings", action="append_const", const="gif", help="write GIFs (default: both)")
    parser.add_argument("--png", dest="endings", action="append_const", const="png", help="write PNGs")
    add_json(parser)


def _run(arguments: Namespace) -> int:
    from trichord.pretrain.engine.allocator import apply

    apply()
    import torch

    from trichord.finetune.token_maps.visualise import visualise
    from trichord.pretrain.engine.allocator import thread_plan

    torch.set_num_threads(thread_plan(1))
    endings = tuple(arguments.endings or ("gif", "png"))
    drawn = visualise(arguments.run_folder, arguments.source, arguments.out, arguments.kind, arguments.count, endings)
    rows = [
        {
            "clip": each.key,
            "shows": each.shows,
            "frames": each.frames,
            "seconds": round(each.seconds, 2),
            "files": ", ".join(map(str, each.files)),
        }
        for each in drawn
    ]
    show_figures(f"{arguments.kind} of {arguments.run_folder}", rows, arguments.json)
    return 0


VISUALISE = Command(
    "visualise",
    "draw a backbone's attention or its tokens over the frames of videos",
    _declare,
    _run,
    (
        "trichord visualise runs/first world/videos/000000.mp4 --out pictures",
        "trichord visualise runs/probe shards/val --out pictures --kind pca --count 8 --gif",
    ),
)
