"""The command `trichord shards build`, and the same build as a cluster job.

The job is divided into parts, each of which writes its share of the shards into the same folder.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trichord.core.command import (
    Job,
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
from trichord.core.console import counted, show_figures
from trichord.core.errors import UserError
from trichord.shards.building.plan import ShardSize, cut, survey
from trichord.shards.building.transcode import Mode, Preset
from trichord.shards.building.write import build
from trichord.shards.layouts import LAYOUTS

_FOLDER = "jobs"  # next to the folders of the splits


def declare(parser: ArgumentParser) -> None:
    """Declare the options of `trichord shards build`."""
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


def run(arguments: Namespace) -> int:
    """Run `trichord shards build`."""
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


@dataclass(frozen=True, kw_only=True)
class BuildJob(Job):
    """One `shards build` command as it was typed."""

    typed: tuple[str, ...]
    settings: Namespace

    def words(self, snapshot: Path, part: tuple[int, int] | None) -> Sequence[str]:
        if part is not None:
            return (*self.typed, "--part", f"{part[0]}/{part[1]}")
        if self.folder.name == _FOLDER:
            return self.typed
        return (*self.typed, "--out", str(self.settings.out / self.folder.name))  # one folder per sweep element

    def files(self, ranks: int) -> Mapping[str, str]:
        return {}  # the command line contains everything

    def check(self, ranks: int) -> Sequence[str]:
        given = self.settings
        preset = read_settings("--preset", given.preset, Preset)
        options = read_pairs("--option", given.option)
        found = survey(given.layout, given.root, options, given.splits, given.max_missing_fraction)
        if _FOLDER in found.listings:
            raise UserError(
                f"The split {_FOLDER!r} of {given.root} and the logs of the jobs would both go to {self.folder}. "
                "Next: rename the split, or build without `launch`."
            )
        _check_writable([given.out, *(given.out / split for split in found.listings)])
        lines = []
        for split, listing in found.listings.items():
            clips = min(len(listing.items), given.limit or len(listing.items))
            line = f"{split}: {counted(clips, 'clip')}"
            if given.bytes_per_shard is None:  # otherwise the number depends on the size of encoded clips
                size = ShardSize.of(given.samples_per_shard, None)
                shards = cut(listing.items, size, Mode(given.mode), preset, None, given.limit)
                line += f" in {counted(len(shards), 'shard')}"
            lines.append(line)
        return lines


def build_job(arguments: Namespace) -> BuildJob:
    """Build the job from the typed command; a command with --part is run as it is and not divided again."""
    return BuildJob(
        name=f"build-{arguments.layout}",
        folder=arguments.out / _FOLDER,
        is_of_parts=arguments.part is None,
        typed=tuple(arguments.words),
        settings=arguments,
    )


def _check_writable(folders: Sequence[Path]) -> None:
    for folder in folders:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(
                f"{folder} cannot be written: {existing} is not a writable folder. Next: choose another --out."
            )
