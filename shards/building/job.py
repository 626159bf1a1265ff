"""A build as a cluster job: divided into parts, each of which writes its share of the shards into the same folder."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trichord.core.command import read_pairs
from trichord.core.errors import UserError
from trichord.core.job import Job

_FOLDER = "jobs"  # next to the folders of the splits


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
        from trichord.core.command import read_settings
        from trichord.shards.building.plan import ShardSize, cut
        from trichord.shards.building.summary import survey
        from trichord.shards.building.transcode import Mode, Preset

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
            line = f"{split}: {_counted(clips, 'clip')}"
            if given.bytes_per_shard is None:  # otherwise the number depends on the size of encoded clips
                size = ShardSize.of(given.samples_per_shard, None)
                shards = cut(listing.items, size, Mode(given.mode), preset, None, given.limit)
                line += f" in {_counted(len(shards), 'shard')}"
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


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _check_writable(folders: Sequence[Path]) -> None:
    for folder in folders:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(
                f"{folder} cannot be written: {existing} is not a writable folder. Next: choose another --out."
            )
