"""Embedding as a cluster job: in parts, each of which embeds its share of the shards into one folder."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trichord.core.errors import UserError
from trichord.core.job import Job
from trichord.core.run_folder import RunFolder
from trichord.shards.reading.manifest import Manifest

_FOLDER = "jobs"  # in the output folder


@dataclass(frozen=True, kw_only=True)
class EmbedJob(Job):
    """One `trichord embed` command with its arguments."""

    typed: tuple[str, ...]
    settings: Namespace

    def words(self, snapshot: Path, part: tuple[int, int] | None) -> Sequence[str]:
        return self.typed if part is None else (*self.typed, "--part", f"{part[0]}/{part[1]}")

    def files(self, ranks: int) -> Mapping[str, str]:
        return {}  # the command line contains all settings

    def check(self, ranks: int) -> Sequence[str]:
        given = self.settings
        if not RunFolder(given.run_folder).is_run and not given.run_folder.is_file():
            raise UserError(f"{given.run_folder} is neither a run folder nor a file of weights")
        out = given.out
        existing = next(path for path in (out, *out.absolute().parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(f"{out} cannot be written: {existing} is not a writable folder. Next: another --out")
        manifest = Manifest.load(given.shards)
        return [f"embed: {manifest.samples:,} clips in {len(manifest.shards)} shards, one part for each"]


def embed_job(arguments: Namespace) -> EmbedJob:
    """Build the job from the command line arguments; with --part, it runs that part and is not divided again."""
    return EmbedJob(
        name=f"embed-{arguments.out.name}",
        folder=arguments.out / _FOLDER,
        is_of_parts=arguments.part is None,
        typed=tuple(arguments.words),
        settings=arguments,
    )
