"""`trichord serve`: a web page that shows the output of runs for an uploaded video."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from importlib.util import find_spec
from pathlib import Path

from trichord.core.command import Command, at_least
from trichord.core.errors import UserError

_NEEDED = ("starlette", "uvicorn")


def _port(text: str) -> int:
    number = at_least(0)(text)
    if number > 65535:
        raise ArgumentTypeError(f"found {text!r}, expected a port, 0 to 65535")
    return number


def _declare(parser: ArgumentParser) -> None:
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
        help="set to offer clips of (default: the first run's training set, if it exists)",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="NAME", help="address to listen on (default: this machine only)"
    )
    parser.add_argument("--port", type=_port, default=8000, metavar="N", help="port to listen on; 0 takes a free port")
    parser.add_argument("--max-megabytes", type=at_least(1), default=100, metavar="N", help="largest video file")
    parser.add_argument("--max-seconds", type=at_least(1), default=300, metavar="N", help="longest video")


def _run(arguments: Namespace) -> int:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(f"missing packages: {', '.join(missing)}. Next: pip install 'trichord[page]'")
    if not arguments.runs and arguments.index is None:
        raise UserError("nothing to serve: name a RUN, or --index DIR. Next: trichord status, which lists runs")
    print("starting: importing libraries, then loading runs", file=sys.stderr, flush=True)
    from trichord.pretrain.engine.allocator import apply

    apply()
    from trichord.finetune.page.serving import Served, serve
    from trichord.shards.decoding.track import DecodeLimits

    limits = DecodeLimits(max_bytes=arguments.max_megabytes * 10**6, max_seconds=float(arguments.max_seconds))
    names = ("runs", "index", "samples", "host", "port")
    serve(Served(**{name: getattr(arguments, name) for name in names}, limits=limits))
    return 0


SERVE = Command(
    "serve",
    "serve a page that shows actions, caption, token map and neighbours of an uploaded video",
    _declare,
    _run,
    (
        "trichord serve runs/probe runs/captions",
        "trichord serve runs/probe runs/video_text --index vectors/val/index --samples shards/val --port 8080",
        "curl --data-binary @clip.mp4 http://127.0.0.1:8000/api/look",
    ),
)
