"""The commands of `trichord shards`; the module of a command is imported only when that command is called."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from trichord.core.command import (
    Command,
    add_json,
    add_out,
    add_part,
    add_settings,
    add_workers,
    at_least,
    byte_size,
    read_pairs,
    read_settings,
    share,
)
from trichord.core.console import show_figures
from trichord.core.errors import UserError
from trichord.shards import inspection_commands
from trichord.shards.inspection_commands import DRAW

if TYPE_CHECKING:
    from trichord.core.job import Job
    from trichord.shards.reading.manifest import Manifest

SUMMARY = "from video files to batches"


def _declare_world(parser: ArgumentParser) -> None:
    from trichord.shards.synthetic import LAYOUTS, WorldRules

    add_out(parser, "a new folder, or one left unfinished by the same command")
    parser.add_argument("--samples", type=at_least(1), default=200, metavar="N", help="number of clips")
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="the same seed gives the same clips")
    parser.add_argument("--layout", choices=tuple(LAYOUTS), default="csv", help="format of the files")
    parser.add_argument(
        "--holdout",
        nargs="+",
        action="extend",
        default=[],
        metavar="COLOUR/SHAPE/ACTION",
        help="combinations that occur only in the test split, with * for any",
    )
    add_settings(parser, "--rules", WorldRules, "other properties of the clips")
    add_workers(parser)
    add_json(parser)


def _run_world(arguments: Namespace) -> int:
    from trichord.shards.synthetic import WorldRules, make_world

    rules = read_settings("--rules", arguments.rules, WorldRules)
    if arguments.holdout:
        rules = rules.model_copy(update={"holdout": (*rules.holdout, *arguments.holdout)})
    summary = make_world(
        arguments.out, arguments.samples, arguments.seed, arguments.layout, rules, processes=arguments.workers
    )
    row = {
        "clips": summary.clips,
        "seconds": summary.seconds,
        "groups": summary.groups,
        **summary.clips_by_split,
        "silent": summary.silent,
        "held out": summary.held_out,
        "layout": summary.layout,
        "folder": str(summary.out),
    }
    show_figures("synthetic data set", [row], arguments.json)
    return 0


def _declare_build(parser: ArgumentParser) -> None:
    from trichord.shards.building.transcode import Mode, Preset
    from trichord.shards.layouts import LAYOUTS

    width = max(map(len, LAYOUTS))
    listed = "\n".join(f"  {name:<{width}}  {layout.summary}" for name, layout in LAYOUTS.items())
    parser.description = f"{parser.description}\n\nlayouts:\n{listed}"
    parser.add_argument("layout", metavar="LAYOUT", choices=tuple(LAYOUTS), help="format of the dataset, see above")
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="folder of the dataset")
    add_out(parser, "output folder: a folder of shards with a manifest.json per split; a rerun continues")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="splits to write (default: all)")
    parser.add_argument(
        "--option", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="layout options, e.g. fold=2"
    )
    modes = "copy each file, remux it to mp4 without re-encoding, or encode it for training"
    parser.add_argument("--mode", choices=tuple(mode.value for mode in Mode), default=Mode.COPY.value, help=modes)
    add_settings(parser, "--preset", Preset, "settings of --mode encode")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--samples-per-shard", type=at_least(1), metavar="N", help="clips per shard (default: 512)")
    size.add_argument("--bytes-per-shard", type=byte_size, metavar="SIZE", help="bytes per shard, e.g. 500MB")
    parser.add_argument(
        "--seed", type=at_least(0), default=0, metavar="N", help="seed for shuffling clips across shards"
    )
    parser.add_argument("--no-shuffle", action="store_true", help="keep the order of the dataset's own lists")
    parser.add_argument("--limit", type=at_least(1), metavar="N", help="maximum number of clips per split")
    parser.add_argument(
        "--max-bad-fraction",
        type=share,
        default=0.05,
        metavar="SHARE",
        help="stop above this share of unreadable clips",
    )
    parser.add_argument(
        "--max-missing-fraction",
        type=share,
        default=0.05,
        metavar="SHARE",
        help="stop above this share of missing files",
    )
    add_part(parser, "write every N-th shard from the I-th on; other jobs write the rest, the last one the manifest")
    add_workers(parser)
    add_json(parser)


def _run_build(arguments: Namespace) -> int:
    from trichord.shards.building.transcode import Preset
    from trichord.shards.building.write import build

    summary = build(
        arguments.layout,
        arguments.root,
        arguments.out,
        options=read_pairs("--option", arguments.option),
        splits=arguments.splits,
        mode=arguments.mode,
        preset=read_settings("--preset", arguments.preset, Preset),
        samples_per_shard=arguments.samples_per_shard,
        bytes_per_shard=arguments.bytes_per_shard,
        workers=arguments.workers,
        seed=arguments.seed,
        shuffle=not arguments.no_shuffle,
        limit=arguments.limit,
        max_bad_fraction=arguments.max_bad_fraction,
        max_missing_fraction=arguments.max_missing_fraction,
        part=arguments.part or (1, 1),
    )
    for each in summary.splits:
        if not each.finished:
            written = f"{each.whole_shards} of {each.planned_shards} shards are written"
            print(f"{each.split}: {written}; the manifest follows with the last shard", file=sys.stderr)
    show_figures(f"shards of {arguments.layout}", summary.rows(), arguments.json)
    return 0


def _job_of_build(arguments: Namespace) -> Job:
    from trichord.shards.building.job import build_job

    return build_job(arguments)


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


def _run_index(arguments: Namespace) -> int:
    from trichord.core.console import track
    from trichord.shards.reading.manifest import Manifest, expand_names, find_shards, scan_shards
    from trichord.shards.reading.roots import parse_root

    where = parse_root(arguments.root)
    folder = arguments.out or where.folder
    if folder is None:
        raise UserError(f"{where.text} is not a folder, so a manifest cannot be written there. Next: add --out DIR")
    names = expand_names(arguments.names) if arguments.names else find_shards(where)
    # Only headers are read, so for a few shards starting processes takes longer than it saves.
    workers = _workers(arguments) if arguments.workers or len(names) >= 32 else 1
    reports = list(track(scan_shards(where.text, names, workers), "reading shards", len(names)))
    for report in reports:
        for member, cause, detail in report.problems:
            print(f"{report.entry.name}: {member}: {cause}: {detail}", file=sys.stderr)
    entries = tuple(report.entry for report in reports)
    before = _manifest_before(folder)
    manifest = before.model_copy(update={"shards": entries}) if before else Manifest(shards=entries)
    path = manifest.save(folder)
    causes = Counter(str(cause) for report in reports for _, cause, _ in report.problems)
    row = {
        "shards": len(manifest.shards),
        "samples": manifest.samples,
        "megabytes": round(sum(shard.bytes for shard in manifest.shards) / 1e6, 1),
        "problems": dict(sorted(causes.items())),
        "manifest": str(path),
    }
    show_figures(f"index of {where.text}", [row], arguments.json)
    return 0


def _manifest_before(folder: Path) -> Manifest | None:
    """Return the manifest that is about to be replaced, whose name, split and classes are kept."""
    from trichord.shards.reading.manifest import FILE_NAME, Manifest

    if not (folder / FILE_NAME).exists():
        return None
    try:
        return Manifest.load(folder)
    except UserError as error:
        print(f"replacing an unreadable manifest: {error}", file=sys.stderr)
        return None


def _workers(arguments: Namespace) -> int:
    import os

    return int(arguments.workers or len(os.sched_getaffinity(0)))


COMMANDS = (
    Command(
        "world",
        "generate a synthetic data set of clips with moving objects, sounds and captions",
        _declare_world,
        _run_world,
        (
            "trichord shards world --out world --samples 200 --seed 0",
            "trichord shards world --out world --layout charades --rules max_seconds=4 silent_share=0.2",
            "trichord shards world --out world --holdout 'red/star/*' 'blue/*/spinning'",
        ),
    ),
    Command(
        "build",
        "convert a dataset to shards",
        _declare_build,
        _run_build,
        (
            "trichord shards build folder --root videos --out shards",
            "trichord shards build csv --root world --out shards --samples-per-shard 64",
            "trichord shards build ucf101 --root UCF101 --out shards --option fold=2",
            "trichord shards build kinetics --root k400 --out shards --mode encode --preset short_side=128",
            "trichord shards build kinetics --root k400 --out shards --mode encode --part 3/16",
            "trichord launch --array 16 shards build kinetics --root k400 --out shards --mode encode",
        ),
        _job_of_build,
    ),
    Command(
        "index",
        "write the manifest of existing shards",
        _declare_index,
        _run_index,
        (
            "trichord shards index shards/train",
            "trichord shards index 'pipe:aws s3 cp s3://bucket/set/{name} -' --names '{00000..00099}.tar' --out set",
        ),
    ),
    DRAW,
    *inspection_commands.COMMANDS,
)
