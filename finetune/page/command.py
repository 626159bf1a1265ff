"""`trichord serve`: a page where a video is dropped and what runs make of it is seen."""

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
        help="runs: a head gives actions and their timeline, captions a caption, video and text the index's model; the "
        "first that sees gives the map of its tokens",
    )
    parser.add_argument("--index", type=Path, metavar="DIR", help="find the nearest videos in this index, too")
    parser.add_argument(
        "--samples", metavar="SHARDS", help="offer some clips of this set (default: of the first run's own, if there)"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="NAME", help="address to listen at, by itself only this machine's"
    )
    parser.add_argument("--port", type=_port, default=8000, metavar="N", help="to listen at; 0 takes any free one")
    parser.add_argument("--max-megabytes", type=at_least(1), default=100, metavar="N", help="of a video")
    parser.add_argument("--max-seconds", type=at_least(1), default=300, metavar="N", help="of a video")


def _run(arguments: Namespace) -> int:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(f"the page needs {' and '.join(missing)}, not installed. Next: pip install 'trichord[page]'")
    if not arguments.runs and arguments.index is None:
        raise UserError("nothing to serve: name a RUN, or --index DIR. Next: trichord status, which lists runs")
    print("starting: libraries first, then runs", file=sys.stderr, flush=True)
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
    "open a page where a video is dropped and its actions, caption, map and neighbours are seen",
    _declare,
    _run,
    (
        "trichord serve runs/probe runs/told_in_words",
        "trichord serve runs/probe runs/told --index vectors/val/index --samples shards/val --port 8080",
        "curl --data-binary @clip.mp4 http://127.0.0.1:8000/api/look",
    ),
)
