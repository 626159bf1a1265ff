"""The commands of `trichord shards`; the module of a command is imported only when that command is called."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from trichord.core.command import Command, add_json, add_out, add_workers, at_least, share

SUMMARY = "make, check and read shards of video clips"


def _declare_index(parser: ArgumentParser) -> None:
    parser.add_argument(
        "root",
        metavar="ROOT",
        help="a folder, an http(s):// address, or 'pipe:COMMAND' with {name} for the shard's name",
    )
    parser.add_argument(
        "--names", nargs="+", metavar="NAME", help="shards, braces allowed: '{00000..00099}.tar' (default: all)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for manifest.json (default: ROOT, if it is a folder)"
    )
    add_workers(parser)
    add_json(parser)


def _declare_draw(parser: ArgumentParser) -> None:
    parser.add_argument("root", metavar="ROOT", help="folder or address of shards with their manifest.json")
    parser.add_argument(
        "--per-class", type=at_least(1), required=True, metavar="K", help="clips per class, such as 2, 4, 8 or 16"
    )
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="seed for the choice of clips")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="cache for remote shards")
    add_out(parser, "folder for the drawn clips")
    add_json(parser)


def _declare_verify(parser: ArgumentParser) -> None:
    _declare_shard_set(parser)
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--sample", type=at_least(1), metavar="N", help="number of clips to decode (default: all)")
    some.add_argument("--sample-share", type=share, metavar="SHARE", help="share of the clips to decode")
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="seed for the choice of clips")
    parser.add_argument("--checksums", action="store_true", help="compare each shard with the manifest's sha256")
    parser.add_argument("--timeout", type=at_least(1), default=300, metavar="SECONDS", help="processor time per clip")
    add_workers(parser)
    add_json(parser)


def _declare_show(parser: ArgumentParser) -> None:
    from trichord.shards.transforms.view_specs import COMMON_VIEWS

    _declare_shard_set(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="path of the PNG to write")
    parser.add_argument("--count", type=at_least(1), default=8, metavar="N", help="number of clips")
    parser.add_argument(
        "--seed", type=at_least(0), default=0, metavar="N", help="seed for the choice of clips and views"
    )
    applied = "transforms to apply: none, or those of a common recipe"
    parser.add_argument("--views", choices=tuple(COMMON_VIEWS), default="none", help=applied)
    add_json(parser)


def _declare_read(parser: ArgumentParser) -> None:
    _declare_shard_set(parser)
    parser.add_argument("--steps", type=at_least(2), default=20, metavar="N", help="number of batches to read")
    parser.add_argument("--start", type=at_least(0), default=0, metavar="STEP", help="step of the first batch")
    parser.add_argument("--batch-size", type=at_least(1), default=8, metavar="N", help="clips per batch")
    lanes = "stream lanes, the independent sequences of samples that fill a batch"
    parser.add_argument("--lanes", type=at_least(1), default=4, metavar="N", help=lanes)
    parser.add_argument("--frames", type=at_least(1), default=8, metavar="N", help="frames per clip of 2 s")
    parser.add_argument(
        "--size", type=at_least(8), default=224, metavar="PIXELS", help="height and width of the frames"
    )
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="seed for order and augmentation")
    parser.add_argument(
        "--workers", type=at_least(0), default=0, metavar="N", help="worker processes; 0 reads in the main process"
    )
    add_json(parser)


def _declare_shard_set(parser: ArgumentParser) -> None:
    parser.add_argument("root", metavar="ROOT", help="folder or address of shards with their manifest.json")
    parser.add_argument("--manifest", type=Path, metavar="DIR", help="folder of manifest.json, if it is not at ROOT")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="cache for remote shards")


COMMANDS = (
    Command(
        "synthetic",
        "generate a synthetic data set of clips with moving objects, sounds and captions",
        "trichord.shards.synthetic.make:declare",
        "trichord.shards.synthetic.make:run",
        (
            "trichord shards synthetic --out synthetic --samples 200 --seed 0",
            "trichord shards synthetic --out synthetic --layout charades --rules max_seconds=4 silent_share=0.2",
            "trichord shards synthetic --out synthetic --holdout 'red/star/*' 'blue/*/spinning'",
        ),
    ),
    Command(
        "build",
        "convert a dataset to shards",
        "trichord.shards.building.job:declare",
        "trichord.shards.building.job:run",
        (
            "trichord shards build folder --root videos --out shards",
            "trichord shards build csv --root synthetic --out shards --samples-per-shard 64",
            "trichord shards build ucf101 --root UCF101 --out shards --option fold=2",
            "trichord shards build kinetics --root k400 --out shards --mode encode --preset short_side=128",
            "trichord shards build kinetics --root k400 --out shards --mode encode --part 3/16",
            "trichord launch --array 16 shards build kinetics --root k400 --out shards --mode encode",
        ),
        "trichord.shards.building.job:build_job",
    ),
    Command(
        "index",
        "write the manifest of existing shards",
        _declare_index,
        "trichord.shards.reading.manifest:run_index",
        (
            "trichord shards index shards/train",
            "trichord shards index 'pipe:aws s3 cp s3://bucket/set/{name} -' --names '{00000..00099}.tar' --out set",
        ),
    ),
    Command(
        "draw",
        "copy a few clips of each class, for few-shot training",
        _declare_draw,
        "trichord.shards.building.draw:run",
        (
            "trichord shards draw hmdb51/train --per-class 2 --out hmdb51/train_2",
            "trichord shards draw shards/train --per-class 16 --seed 1 --out shards/train_16",
        ),
    ),
    Command(
        "verify",
        "decode all clips, or a sample, and count errors by cause",
        _declare_verify,
        "trichord.shards.inspection.verify:run",
        (
            "trichord shards verify shards/train",
            "trichord shards verify shards/train --sample 500 --checksums --json",
        ),
    ),
    Command(
        "show",
        "draw a contact sheet of clips with captions, intervals and spectrograms",
        _declare_show,
        "trichord.shards.inspection.show:run",
        (
            "trichord shards show shards/train --out sheet.png",
            "trichord shards show shards/train --out views.png --count 3 --views svt",
        ),
    ),
    Command(
        "read",
        "read batches as in training; report speed, errors, and a digest that does not depend on workers",
        _declare_read,
        "trichord.shards.inspection.read:run",
        (
            "trichord shards read shards/train",
            "trichord shards read shards/train --workers 2 --batch-size 16 --lanes 8 --steps 50",
            "trichord shards read shards/train --start 10000 --steps 2",
        ),
    ),
)
