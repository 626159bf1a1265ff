"""The commands that read shards without changing them: verify, show, read and draw.

Modules are imported only when their command is called. `draw` writes a few clips of each class as a new shard set,
which training reads like any other.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from trichord.core.command import Command, add_json, add_out, add_workers, at_least, share
from trichord.core.console import pulse, show_figures


def _declare_verify(parser: ArgumentParser) -> None:
    _declare_shard_set(parser)
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--sample", type=at_least(1), metavar="N", help="number of clips to decode (default: all)")
    some.add_argument("--sample-share", type=share, metavar="SHARE", help="share of the clips to decode")
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="seed for the choice of clips")
    parser.add_argument("--checksums", action="store_true", help="compare each shard with the manifest's sha256")
    parser.add_argument("--timeout", type=at_least(1), default=300, metavar="SECONDS", help="time limit per clip")
    add_workers(parser)
    add_json(parser)


def _run_verify(arguments: Namespace) -> int:
    from trichord.shards.decoding.track import DecodeLimits
    from trichord.shards.inspection.verify import verify

    report = verify(
        arguments.root,
        sample=arguments.sample or arguments.sample_share,
        workers=arguments.workers or len(os.sched_getaffinity(0)),
        limits=DecodeLimits(timeout_s=arguments.timeout),
        cache_dir=arguments.cache,
        seed=arguments.seed,
        manifest=arguments.manifest,
        with_checksums=arguments.checksums,
    )
    title = f"verification of {report.root}"
    if arguments.json:
        details = {"of_a_clip": report.spreads(), "bad_list": report.listed(), "disagreements": report.disagreements}
        show_figures(title, [{**report.overview(), **details}], as_json=True)
        return report.exit_code
    for rows, name in ((report.listed(), "errors"), (report.spreads(), "properties of the good clips")):
        if rows:
            show_figures(name, rows, as_json=False)
    for line in report.disagreements:
        print(line, file=sys.stderr)
    show_figures(title, [report.overview()], as_json=False)
    return report.exit_code


def _declare_show(parser: ArgumentParser) -> None:
    from trichord.shards.inspection.show import VIEWS

    _declare_shard_set(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="path of the PNG to write")
    parser.add_argument("--count", type=at_least(1), default=8, metavar="N", help="number of clips")
    parser.add_argument(
        "--seed", type=at_least(0), default=0, metavar="N", help="seed for the choice of clips and views"
    )
    parser.add_argument(
        "--views", choices=tuple(VIEWS), default="none", help="transforms to apply: none, or those of a common recipe"
    )
    add_json(parser)


def _run_show(arguments: Namespace) -> int:
    from trichord.shards.inspection.show import VIEWS, show

    shown = show(
        arguments.root,
        arguments.out,
        count=arguments.count,
        seed=arguments.seed,
        views=VIEWS[arguments.views],
        cache_dir=arguments.cache,
        manifest=arguments.manifest,
    )
    row = {
        "clips": shown.clips,
        "bad": shown.bad,
        "width": shown.width,
        "height": shown.height,
        "picture": str(shown.path),
    }
    show_figures("contact sheet", [row], arguments.json)
    return 0


def _declare_read(parser: ArgumentParser) -> None:
    _declare_shard_set(parser)
    parser.add_argument("--steps", type=at_least(2), default=20, metavar="N", help="number of batches to read")
    parser.add_argument("--start", type=at_least(0), default=0, metavar="STEP", help="first step")
    parser.add_argument("--batch-size", type=at_least(1), default=8, metavar="N", help="clips per batch")
    lanes = "stream lanes, the independent sequences of samples that fill a batch"
    parser.add_argument("--lanes", type=at_least(1), default=4, metavar="N", help=lanes)
    parser.add_argument("--frames", type=at_least(1), default=8, metavar="N", help="frames per clip of 2 s")
    parser.add_argument("--size", type=at_least(8), default=224, metavar="PIXELS", help="frame size")
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="seed for order and augmentation")
    parser.add_argument(
        "--workers", type=at_least(0), default=0, metavar="N", help="worker processes; 0 reads in the main process"
    )
    add_json(parser)


def _run_read(arguments: Namespace) -> int:
    from trichord.shards.inspection.read import read, usual_recipe
    from trichord.shards.reading.stream_config import SourceConfig, StreamConfig

    config = StreamConfig(
        sources=(SourceConfig(root=arguments.root, manifest=arguments.manifest),),
        batch_size=arguments.batch_size,
        lanes=arguments.lanes,
        seed=arguments.seed,
        workers=arguments.workers,
        cache_dir=arguments.cache,
    )
    with pulse("reading batches") as beat:
        row = read(
            config,
            usual_recipe(arguments.frames, arguments.size),
            steps=arguments.steps,
            start_step=arguments.start,
            beat=beat,
        )
    show_figures(f"batches of {arguments.root}", [row], arguments.json)
    return 0


def _declare_shard_set(parser: ArgumentParser) -> None:
    parser.add_argument("root", metavar="ROOT", help="folder or address of shards with their manifest.json")
    parser.add_argument("--manifest", type=Path, metavar="DIR", help="folder of manifest.json, if it is not at ROOT")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="cache for remote shards")


COMMANDS = (
    Command(
        "verify",
        "decode all clips, or a sample, and count errors by cause",
        _declare_verify,
        _run_verify,
        (
            "trichord shards verify shards/train",
            "trichord shards verify shards/train --sample 500 --checksums --json",
        ),
    ),
    Command(
        "show",
        "draw a contact sheet of clips with captions, intervals and spectrograms",
        _declare_show,
        _run_show,
        (
            "trichord shards show shards/train --out sheet.png",
            "trichord shards show shards/train --out views.png --count 3 --views svt",
        ),
    ),
    Command(
        "read",
        "read batches as in training; report speed, errors, and a digest that must not depend on workers",
        _declare_read,
        _run_read,
        (
            "trichord shards read shards/train",
            "trichord shards read shards/train --workers 2 --batch-size 16 --lanes 8 --steps 50",
            "trichord shards read shards/train --start 10000 --steps 2",
        ),
    ),
)


def _declare(parser: ArgumentParser) -> None:
    parser.add_argument("root", metavar="ROOT", help="folder or address of shards with their manifest.json")
    parser.add_argument(
        "--per-class", type=at_least(1), required=True, metavar="K", help="clips per class, such as 2, 4, 8 or 16"
    )
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="seed for the choice of clips")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="cache for remote shards")
    add_out(parser, "folder for the drawn clips")
    add_json(parser)


def _run(arguments: Namespace) -> int:
    from trichord.shards.building.draw import draw

    drawn = draw(arguments.root, arguments.out, arguments.per_class, arguments.seed, arguments.cache)
    names = drawn.manifest.classes
    classes = range(len(names)) if names else list(drawn.per_class)
    short = [number for number in classes if drawn.per_class.get(number, 0) < arguments.per_class]
    for number in short:
        name = names[number] if names else f"class {number}"
        count = drawn.per_class.get(number, 0)
        print(
            f"{name} has {count} {'clip' if count == 1 else 'clips'}, fewer than {arguments.per_class}", file=sys.stderr
        )
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
