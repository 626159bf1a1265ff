"""The manifest of a shard set: its shards and their sample counts, so that readers need not scan the shards."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from braceexpand import braceexpand
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from trichord.core.command import command_line
from trichord.core.console import counted, show_figures, track
from trichord.core.errors import Cause, SampleError, UserError
from trichord.core.files import write_whole
from trichord.core.processes import worker_pool
from trichord.core.reading import mistake, read_bytes, reason
from trichord.shards.reading.root import Root, check_shard_name, parse_root
from trichord.shards.reading.transfer import TransferPolicy, read_small

FILE_NAME = "manifest.json"
SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_LARGEST_MANIFEST = 1 << 28  # a million shards
_EXAMPLE_NAMES = "{00000..00099}.tar"


class ShardEntry(BaseModel):
    """One shard; `bytes` is the size of the stored file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, AfterValidator(check_shard_name)]
    samples: Annotated[int, Field(ge=0, le=1 << 24)]
    bytes: Annotated[int, Field(ge=0, le=1 << 60)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None


class Manifest(BaseModel):
    """The contents of a shard set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    name: str = ""
    split: str = ""
    classes: tuple[str, ...] = ()
    shards: tuple[ShardEntry, ...]

    @model_validator(mode="after")
    def _names_differ(self) -> Manifest:
        seen: set[str] = set()
        for shard in self.shards:
            if shard.name in seen:
                raise ValueError(f"shard {shard.name!r} is listed twice")
            seen.add(shard.name)
        return self

    @property
    def samples(self) -> int:
        """Number of samples in all shards."""
        return sum(shard.samples for shard in self.shards)

    def digest(self) -> str:
        """Return a hash that identifies the set by its shards and classes; checksums do not affect it."""
        content = [[shard.name, shard.samples, shard.bytes] for shard in self.shards]
        text = json.dumps([self.version, content, list(self.classes)], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def save(self, folder: Path) -> Path:
        """Write manifest.json atomically: a reader sees the old or the new file, never a part."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE_NAME
        write_whole(path, self.model_dump_json(indent=1) + "\n")
        return path

    @classmethod
    def load(cls, root: str | Path) -> Manifest:
        """Read the manifest of a folder, an http(s) address or a `pipe:` template, or a manifest file itself."""
        where = parse_root(root)
        try:
            if where.folder is None:
                content = read_small(where, FILE_NAME, _LARGEST_MANIFEST)
            else:
                path = where.folder if where.folder.suffix == ".json" else where.folder / FILE_NAME
                content = read_bytes(path, _LARGEST_MANIFEST)
        except OSError as error:
            raise UserError(_explain_missing(where, error)) from error
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise UserError(
                f"the manifest of {where.text} is not valid: {mistake(error)}. "
                f"Create it again: {command_line('shards', 'index', where.text)}"
            ) from error


class ShardReport(BaseModel):
    """The result of scanning one shard; `problems` are (member, cause, detail)."""

    model_config = ConfigDict(frozen=True)

    entry: ShardEntry
    problems: tuple[tuple[str, Cause, str], ...] = ()


def index_shards(
    root: str | Path,
    names: Sequence[str] | None = None,
    workers: int = 1,
    policy: TransferPolicy | None = None,
) -> Manifest:
    """Build a manifest for shards that other tools wrote.

    In a folder all shards are found; elsewhere `names` lists them, optionally with braces: `{00000..00099}.tar`.
    """
    return Manifest(shards=tuple(report.entry for report in scan_shards(root, names, workers, policy)))


def scan_shards(
    root: str | Path, names: Sequence[str] | None = None, workers: int = 1, policy: TransferPolicy | None = None
) -> Iterator[ShardReport]:
    """Yield a report for each shard, in the order of names; `workers` processes scan them."""
    where = parse_root(root)
    listed = expand_names(names) if names else find_shards(where)
    if workers <= 1 or len(listed) == 1:
        for name in listed:
            yield _scan_shard(where, policy, name)
        return
    with worker_pool(min(workers, len(listed)), "trichord.shards.reading.archive") as pool:
        yield from pool.map(partial(_scan_shard, where, policy), listed)


def expand_names(names: Sequence[str]) -> list[str]:
    """Expand `{00000..00099}.tar` and check every name."""
    expanded = [name for pattern in names for name in braceexpand(pattern)]
    try:
        return [check_shard_name(name) for name in expanded]
    except ValueError as error:
        raise UserError(str(error)) from error


def find_shards(where: Root) -> list[str]:
    """Return the names of the shards in a folder, sorted."""
    if where.folder is None:
        raise UserError(
            f"the shards of {where.text} cannot be listed remotely. Name them: "
            f"{command_line('shards', 'index', where.text, '--names', _EXAMPLE_NAMES)}"
        )
    if not where.folder.is_dir():
        raise UserError(f"{where.folder} is not a folder")
    names = sorted(path.name for path in where.folder.iterdir() if path.name.endswith(SHARD_SUFFIXES))
    if not names:
        below = sorted({path.parent.name for path in where.folder.glob("*/*.tar*")})
        hint = f" These folders in it do: {', '.join(below[:5])}. Index each of them." if below else ""
        raise UserError(f"{where.folder} has no shards (*.tar, *.tar.gz).{hint}")
    try:
        return [check_shard_name(name) for name in names]
    except ValueError as error:
        raise UserError(f"in {where.folder}: {error}. Rename the shard.") from error


def _scan_shard(where: Root, policy: TransferPolicy | None, name: str) -> ShardReport:
    from trichord.shards.reading.archive import (
        open_archive,  # imports webdataset and torch, which takes a second and is not needed to load a manifest
    )

    try:
        archive = open_archive(where, name, policy=policy)
    except SampleError as error:
        if where.folder is None:
            raise UserError(f"shard {error.detail}. Check the address and the names.") from error
        problem = (name, error.cause, error.detail)
        return ShardReport(entry=ShardEntry(name=name, samples=0, bytes=0), problems=(problem,))
    entry = ShardEntry(name=name, samples=len(archive), bytes=archive.stored_bytes, sha256=archive.sha256)
    problems = tuple((problem.name, problem.cause, problem.detail) for problem in archive.problems)
    archive.close()
    return ShardReport(entry=entry, problems=problems)


def _explain_missing(where: Root, error: OSError) -> str:
    """Describe what was found at the root instead of a manifest, and the command to run."""
    if where.folder is None:
        return (
            f"no {FILE_NAME} could be read at {where.text} ({error}). Create one: "
            f"{command_line('shards', 'index', where.text, '--names', _EXAMPLE_NAMES, '--out', 'FOLDER')}, and set the "
            "source's manifest to FOLDER"
        )
    if not where.folder.exists():
        return f"{where.folder} does not exist"
    if not isinstance(error, FileNotFoundError):
        return f"{where.folder} cannot be read as a shard set: {reason(error)}"
    below = _sets_below(where.folder)
    if below:
        return f"{where.folder} has no {FILE_NAME}, but these folders in it do: {', '.join(below)}. Use one of them."
    count = sum(path.name.endswith(SHARD_SUFFIXES) for path in where.folder.iterdir())
    create = command_line("shards", "index", where.folder)
    return f"{where.folder} has {counted(count, 'shard')} and no {FILE_NAME}. Create it: {create}"


def _sets_below(folder: Path) -> list[str]:
    return sorted(str(path.parent) for path in folder.glob(f"*/{FILE_NAME}"))


def run_index(arguments: Namespace) -> int:
    """Run `trichord shards index`."""
    where = parse_root(arguments.root)
    folder = arguments.out or where.folder
    if folder is None:
        raise UserError(f"{where.text} is not a folder, so a manifest cannot be written there. Next: add --out DIR")
    names = expand_names(arguments.names) if arguments.names else find_shards(where)
    # Only headers are read, so for a few shards starting processes takes longer than it saves.
    workers = arguments.workers or len(os.sched_getaffinity(0)) if arguments.workers or len(names) >= 32 else 1
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
    if not (folder / FILE_NAME).exists():
        return None
    try:
        return Manifest.load(folder)
    except UserError as error:
        print(f"replacing an unreadable manifest: {error}", file=sys.stderr)
        return None
