"""Checkpoint folders on disk: whole or absent, checked before use, pruned by rule.

A folder appears under its name by a rename after every file in it was written, synced and hashed; what a killed run
left under a temporary name is removed by the next save. Files are safetensors and JSON: nothing in them can run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trichord.core.files import sync, write_whole

FORMAT = 1
INDEX = "checkpoint.json"
LATEST = "latest"
_NAME = re.compile(r"step_(\d{8})")
_UNFINISHED = ".unfinished-"
_DOOMED = ".removing-"


class FileEntry(BaseModel):
    """What a file must be for the checkpoint to be whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: NonNegativeInt
    sha256: str


class CheckpointIndex(BaseModel):
    """What stands in checkpoint.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    step: NonNegativeInt  # updates done; the run goes on with the step of this number
    adam_updates: NonNegativeInt
    world_size: int
    versions: dict[str, str]
    data_digests: list[str]  # of the shard sets' manifests
    config: dict[str, Any]
    files: dict[str, FileEntry]


class TornCheckpoint(Exception):
    """A checkpoint folder is not what its index promises."""


def name_of(step: int) -> str:
    """Name the folder of a step."""
    return f"step_{step:08d}"


def checkpoints_in(folder: Path) -> list[Path]:
    """List finished checkpoints, newest first; whether they are whole `read_index` and `check_file` say."""
    found = [path for path in folder.glob("step_*") if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, reverse=True)


def begin(folder: Path, step: int) -> Path:
    """Make the temporary folder that becomes the checkpoint of a step; leftovers of killed runs go first.

    Its name is its own: a start that lost the run to a later one, and still writes, must not write into that one's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in (*folder.glob(_UNFINISHED + "*"), *folder.glob(_DOOMED + "*")):
        shutil.rmtree(leftover, ignore_errors=True)  # over NFS what someone reads stays a while, and is in nobody's way
    temporary = folder / f"{_UNFINISHED}{name_of(step)}-{secrets.token_hex(4)}"
    temporary.mkdir()
    return temporary


def finish(temporary: Path, index: CheckpointIndex) -> Path:
    """Write the index, give the folder its name, and say in `latest` that it is the newest."""
    write_whole(temporary / INDEX, json.dumps(index.model_dump(mode="json"), indent=1) + "\n")
    sync(temporary)
    folder = temporary.parent
    final = folder / name_of(index.step)
    if final.exists():  # the same step again, after falling back past a torn checkpoint
        remove(final)
    os.rename(temporary, final)
    sync(folder)
    point_at(final)
    return final


def point_at(checkpoint: Path) -> None:
    """Let `latest` name a checkpoint, unless it does already: a run may have been killed between rename and this."""
    latest = checkpoint.parent / LATEST
    if not latest.is_file() or latest.read_text() != checkpoint.name + "\n":
        write_whole(latest, checkpoint.name + "\n")


def discard(temporary: Path) -> None:
    """Give up a checkpoint that could not be written, so that it takes no room on a full disk."""
    shutil.rmtree(temporary, ignore_errors=True)


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint so that a half-deleted one never bears a checkpoint's name."""
    doomed = checkpoint.with_name(_DOOMED + checkpoint.name)
    os.rename(checkpoint, doomed)
    shutil.rmtree(doomed)


def prune(folder: Path, keep_last: int, keep_every_steps: int | None, newest: int) -> list[Path]:
    """Remove all but the last k up to the newest step and every n-th; give what was removed.

    Later ones are torn and were passed over: counted among the last k they would push the good ones out.
    """
    old = [path for path in checkpoints_in(folder) if step_of(path) <= newest][keep_last:]
    if keep_every_steps:
        old = [path for path in old if step_of(path) % keep_every_steps]
    for path in old:
        remove(path)
    return old


def step_of(checkpoint: Path) -> int:
    """Read the step from a checkpoint's name."""
    return int(checkpoint.name.removeprefix("step_"))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> FileEntry:
    """Write a safetensors file and give what it must be; it is on the disk when this returns."""
    save_tensors(path, {name: tensor.contiguous() for name, tensor in tensors.items()})
    sync(path)
    return FileEntry(bytes=path.stat().st_size, sha256=_digest(path))


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, str] | None = None) -> None:
    """Save a safetensors file with the rights that the umask leaves; the library would keep it to its owner."""
    path.touch()
    rights = path.stat().st_mode & 0o777
    try:
        save_file(tensors, path, metadata=about)
    except SafetensorError as error:  # which is how a full disk shows
        raise OSError(str(error)) from error
    path.chmod(rights)


def read_index(checkpoint: Path) -> CheckpointIndex:
    """Read a checkpoint's index and compare sizes; raise TornCheckpoint where it is not whole."""
    try:
        index = CheckpointIndex.model_validate_json((checkpoint / INDEX).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError) as error:
        raise TornCheckpoint(f"{checkpoint / INDEX} cannot be read: {error}") from error
    if index.format != FORMAT:
        raise TornCheckpoint(f"{checkpoint} is of format {index.format}, this version reads {FORMAT}")
    for name, entry in index.files.items():
        path = checkpoint / name
        size = path.stat().st_size if path.is_file() else -1
        if size != entry.bytes:
            raise TornCheckpoint(f"{path}: expected {entry.bytes} bytes, found {'nothing' if size < 0 else size}")
    return index


def check_file(checkpoint: Path, name: str, entry: FileEntry) -> None:
    """Compare a file's checksum; raise TornCheckpoint where it differs."""
    if _digest(checkpoint / name) != entry.sha256:
        raise TornCheckpoint(f"{checkpoint / name}: the checksum differs from the one written with it")


def read_tensors(checkpoint: Path, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """Give the tensors of some of a checkpoint's files one after another, so that no more than one is in memory."""
    for name in names:
        try:
            with safe_open(checkpoint / name, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118  (it is no dict)
                    yield key, file.get_tensor(key)
        except SafetensorError as error:
            raise TornCheckpoint(f"{checkpoint / name} cannot be read: {error}") from error


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
