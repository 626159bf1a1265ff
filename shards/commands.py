"""The commands of this floor; a room is imported when its command is the one that was typed."""

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

    add_out(parser, "a new folder, or one that the same command left unfinished")
    parser.add_argument("--samples", type=at_least(1), default=200, metavar="N", help="how many clips")
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="the same seed gives the same clips")
    parser.add_argument("--layout", choices=tuple(LAYOUTS), default="csv", help="whose files to write it out as")
    parser.add_argument(
        "--holdout",
        nargs="+",
        action="extend",
        default=[],
        metavar="COLOUR/SHAPE/ACTION",
        help="combinations that only the test split shows, with * for any",
    )
    add_settings(parser, "--rules", WorldRules, "everything else that decides what the clips are like")
    add_workers(parser)
    add_json(parser)


def _run_world(arguments: Namespace) -> int:
    from trichord.shards.synthetic import WorldRules, make_world

    rules = read_settings("--rules", arguments.rules, WorldRules)
    if arguments.holdout:
        rules = rules.model_copy(update={"holdout": (*rules.holdout, *arguments.holdout)})
    made = make_world(
        arguments.out, arguments.samples, arguments.seed, arguments.layout, rules, processes=arguments.workers
    )
    row = {
        "clips": made.clips,
        "seconds": made.seconds,
        "groups": made.groups,
        **made.clips_by_split,
        "silent": made.silent,
        "held out": made.held_out,
        "layout": made.layout,
        "folder": str(made.out),
    }
    show_figures("a generated world", [row], arguments.json)
    return 0


def _declare_build(parser: ArgumentParser) -> None:
    from trichord.shards.building.transcode import Mode, Preset
    from trichord.shards.layouts import LAYOUTS

    width = max(map(len, LAYOUTS))
    listed = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in LAYOUTS.items())
    parser.description = f"{parser.description}\n\nlayouts:\n{listed}"
    parser.add_argument("layout", metavar="LAYOUT", choices=tuple(LAYOUTS), help="whose files these are, see above")
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="where the dataset lies")
    add_out(parser, "gets a folder of shards with a manifest.json for each split; run again, it continues")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="only these (default: all there are)")
    parser.add_argument(
        "--option", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="of the layout, e.g. fold=2"
    )
    modes = "keep each file, move it to mp4 without re-encoding, or encode it for training"
    parser.add_argument("--mode", choices=tuple(mode.value for mode in Mode), default=Mode.COPY.value, help=modes)
    add_settings(parser, "--preset", Preset, "how --mode encode does it")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--samples-per-shard", type=at_least(1), metavar="N", help="target size (default: 512 clips)")
    size.add_argument("--bytes-per-shard", type=byte_size, metavar="SIZE", help="target size, e.g. 500MB")
    parser.add_argument(
        "--seed", type=at_least(0), default=0, metavar="N", help="of the shuffle before clips are dealt to shards"
    )
    parser.add_argument("--no-shuffle", action="store_true", help="keep the order of the dataset's own lists")
    parser.add_argument("--limit", type=at_least(1), metavar="N", help="take this many clips of each split")
    parser.add_argument(
        "--max-bad-fraction",
        type=share,
        default=0.05,
        metavar="SHARE",
        help="of clips that cannot be read, before it stops",
    )
    parser.add_argument(
        "--max-missing-fraction", type=share, default=0.05, metavar="SHARE", help="of listed files that are not there"
    )
    add_part(parser, "write every N-th shard from the I-th on, other jobs the rest; the last adds the manifest")
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
            there = f"{each.whole_shards} of {each.planned_shards} shards are there"
            print(f"{each.split}: {there}; the manifest comes with the last", file=sys.stderr)
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
        "--names", nargs="+", metavar="NAME", help="the shards, braces allowed: '{00000..00099}.tar' (default: all)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where manifest.json goes (default: ROOT, if it is a folder)"
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
        raise UserError(f"{where.text} is no folder to put a manifest into. Next: add --out DIR")
    names = expand_names(arguments.names) if arguments.names else find_shards(where)
    # Only headers are read: for a few shards, processes cost more to start than they save.
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
    """Give the manifest that is about to be replaced: what its maker said of name, split and classes stays."""
    from trichord.shards.reading.manifest import FILE_NAME, Manifest

    if not (folder / FILE_NAME).exists():
        return None
    try:
        return Manifest.load(folder)
    except UserError as error:
        print(f"replacing a manifest that cannot be read: {error}", file=sys.stderr)
        return None


def _workers(arguments: Namespace) -> int:
    import os

    return int(arguments.workers or len(os.sched_getaffinity(0)))


COMMANDS = (
    Command(
        "world",
        "generate clips with moving things, sounds and captions, to learn and to test on",
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
        "write a dataset's own files as shards",
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
        "write the manifest of shards that others made",
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
