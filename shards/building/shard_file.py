"""One shard: written under a temporary name, completed by a rename, described by a side file that restarts rely on."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from trichord.core.errors import Cause, SampleError
from trichord.core.files import PARTIAL, temporary_path, write_whole
from trichord.core.reading import read_bytes
from trichord.shards.building.transcode import Medium, Mode, Part, Preset, make_medium
from trichord.shards.layouts.listing import Item
from trichord.shards.record import Annotation, Interval


class Skipped(BaseModel):
    """A clip that was left out of the shard, and the reason."""

    model_config = ConfigDict(frozen=True)
    key: str
    source: str | None
    cause: Cause
    detail: str


class ShardRecord(BaseModel):
    """The content of the side file `00000.done.json`; it is valid only while `plan` equals the current plan."""

    model_config = ConfigDict(frozen=True)
    version: Literal[1] = 1
    name: str
    samples: int
    bytes: int
    sha256: str
    plan: str
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True)
class ShardTask:
    """Everything that a worker process needs to write one shard."""

    folder: Path
    name: str  # without extension
    items: tuple[Item, ...]
    mode: Mode
    preset: Preset
    plan: str

    @property
    def tar(self) -> Path:
        """Path of the shard."""
        return self.folder / f"{self.name}.tar"

    @property
    def side_file(self) -> Path:
        """Path of the shard's record."""
        return self.folder / f"{self.name}.done.json"


def finished(task: ShardTask) -> ShardRecord | None:
    """Return the record of the shard if it exists, is complete and has the same plan; otherwise None."""
    try:
        record = ShardRecord.model_validate_json(read_bytes(task.side_file))
        size = task.tar.stat().st_size if record.samples else 0
    except (OSError, ValidationError):
        return None
    return record if record.plan == task.plan and record.bytes == size else None


def write_shard(task: ShardTask) -> ShardRecord:
    """Write a shard. Clips that cannot be used are left out and recorded; a shard without clips has no tar file.

    The side file is written first, so that a tar file never exists without its record.
    """
    from webdataset import TarWriter  # imports torch, which planning does not need

    for leftover in (task.tar, *task.folder.glob(f".{task.name}.*{PARTIAL}")):  # no other process writes this shard
        leftover.unlink(missing_ok=True)
    partial = temporary_path(task.tar)
    skipped: list[Skipped] = []
    samples = 0
    try:
        with partial.open("wb") as file:
            hashed = _HashedFile(file)
            with TarWriter(hashed, user="", group="", mode=0o644, mtime=0, compress=False, encoder=False) as writer:
                for item in task.items:
                    try:
                        members = sample_members(item, task.mode, task.preset)
                    except SampleError as error:
                        source = item.annotation.source
                        skipped.append(Skipped(key=item.key, source=source, cause=error.cause, detail=error.detail))
                        continue
                    writer.write({"__key__": item.key, **members})
                    samples += 1
            file.flush()
            os.fsync(file.fileno())
        record = ShardRecord(
            name=task.tar.name,
            samples=samples,
            bytes=hashed.size if samples else 0,
            sha256=hashed.digest.hexdigest(),
            plan=task.plan,
            skipped=tuple(skipped),
        )
        write_whole(task.side_file, record.model_dump_json(indent=1))
        if samples:
            partial.replace(task.tar)
    finally:
        partial.unlink(missing_ok=True)
    return record


def sample_members(item: Item, mode: Mode, preset: Preset) -> dict[str, bytes]:
    """Build the members of one sample: the media, its annotation, and the first caption if there is one."""
    annotation = item.annotation
    if item.load is not None:
        medium = make_medium(item.load(), "mp4", Mode.COPY, preset)
    else:
        try:
            data = item.path.read_bytes()
        except OSError as error:
            raise SampleError(Cause.MISSING, f"cannot be read: {error}") from error
        part = Part(annotation.start or 0.0, annotation.end)
        medium = make_medium(data, item.path.suffix, mode, preset, part)
    annotation = _completed(annotation, medium)
    members = {medium.extension: medium.data, "json": annotation.model_dump_json(exclude_none=True).encode()}
    if annotation.captions:
        members["txt"] = annotation.captions[0].encode()
    return members


def _completed(annotation: Annotation, medium: Medium) -> Annotation:
    """Add rate and duration of the media; clip intervals to the duration, and drop those that start after it."""
    intervals = tuple(
        Interval(label=interval.label, start=interval.start, end=min(interval.end, medium.duration_s))
        for interval in annotation.intervals
        if interval.start < medium.duration_s
    )
    update = {"fps": medium.fps, "duration": medium.duration_s, "intervals": intervals}
    return annotation.model_copy(update=update)


class _HashedFile:
    """A writable file that computes the checksum and size of its content."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview[int]) -> int:
        view = memoryview(data)
        self.digest.update(view)
        self.size += view.nbytes
        return self._file.write(view)
