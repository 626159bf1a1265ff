"""`trichord shards draw`: a few clips of each class, as a shard set of its own that training takes like any other."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from trichord.core.command import Command, add_json, add_out, at_least
from trichord.core.console import show_figures


def _declare(parser: ArgumentParser) -> None:
    parser.add_argument("root", metavar="ROOT", help="a folder of shards with its manifest.json, or where they lie")
    parser.add_argument(
        "--per-class", type=at_least(1), required=True, metavar="K", help="clips of each class, such as 2, 4, 8 or 16"
    )
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="another seed draws other clips")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep shards from elsewhere here")
    add_out(parser, "a folder for the drawn clips")
    add_json(parser)


def _run(arguments: Namespace) -> int:
    from trichord.shards.building.draw import draw

    drawn = draw(arguments.root, arguments.out, arguments.per_class, arguments.seed, arguments.cache)
    names = drawn.manifest.classes
    classes = range(len(names)) if names else list(drawn.per_class)
    short = [number for number in classes if drawn.per_class.get(number, 0) < arguments.per_class]
    for number in short:
        name = names[number] if names else f"class {number}"
        print(f"{name} has {drawn.per_class.get(number, 0)} clips, fewer than {arguments.per_class}", file=sys.stderr)
    row = {
        "clips": drawn.manifest.samples,
        "classes": len(drawn.per_class),
        "per class": arguments.per_class,
        "short of clips": len(short),
        "without label": drawn.without_label,
        "bad": drawn.bad,
        "seed": arguments.seed,
        "shards": str(arguments.out),
    }
    show_figures(f"drawn from {arguments.root}", [row], arguments.json)
    return 0


DRAW = Command(
    "draw",
    "copy a few clips of each class, for few-shot training",
    _declare,
    _run,
    (
        "trichord shards draw hmdb51/train --per-class 2 --out hmdb51/train_2",
        "trichord shards draw shards/train --per-class 16 --seed 1 --out shards/train_16",
    ),
)
