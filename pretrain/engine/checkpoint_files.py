"""Checkpoint folders on disk: complete or absent, verified before use, pruned by rule.

A folder is renamed to its final name after every file in it was written, synced and hashed; a temporary folder left by
a killed run is removed by the next save. Files are safetensors and JSON, so nothing in them can be executed.
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
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from trichord.core.errors import UserError
from trichord.core.files import sync, write_whole
from trichord.core.reading import mistake
from trichord.pretrain.weights.file import stream_tensors

FORMAT = 1
INDEX = "checkpoint.json"
LATEST = "latest"
_NAME = re.compile(r"step_(\d{8})")
_UNFINISHED = ".unfinished-"
_DOOMED = ".removing-"
_MOST_OF_INDEX = 1 << 26
_FileName = Annotated[str, Field(pattern=r"^[a-z]+-\d{5,}\.safetensors$")]  # so that it stays within its folder
_StepNumber = Annotated[int, Field(ge=0, lt=1 << 53)]  # those that a float represents


class CheckpointFile(BaseModel):
    """Size and checksum that a file must have for the checkpoint to be complete."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: NonNegativeInt
    sha256: str


class CheckpointIndex(BaseModel):
    """The content of checkpoint.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    step: _StepNumber  # updates done; the run resumes with the step of this number
    adam_updates: _StepNumber
    world_size: int
    versions: dict[str, str]
    data_digests: list[str]  # of the shard sets' manifests
    config: dict[str, Any]
    files: dict[_FileName, CheckpointFile]


class TornCheckpoint(Exception):
    """Raised when a checkpoint folder does not match its index."""


def name_of(step: int) -> str:
    """Return the folder name of a step's checkpoint."""
    return f"step_{step:08d}"


def checkpoints_in(folder: Path) -> list[Path]:
    """Return finished checkpoints, newest first; `read_index` and `check_file` verify that they are complete."""
    found = [path for path in folder.glob("step_*") if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, reverse=True)


def begin(folder: Path, step: int) -> Path:
    """Create the temporary folder of a step's checkpoint, after removing leftovers of killed runs.

    Its name is unique: an earlier start that lost the run to a later one must not write into the later one's folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in (*folder.glob(_UNFINISHED + "*"), *folder.glob(_DOOMED + "*")):
        shutil.rmtree(leftover, ignore_errors=True)  # over NFS, files being read stay for a while; they do no harm
    temporary = folder / f"{_UNFINISHED}{name_of(step)}-{secrets.token_hex(4)}"
    temporary.mkdir()
    return temporary


def finish(temporary: Path, index: CheckpointIndex) -> Path:
    """Write the index, rename the folder to its final name, and make `latest` point to it."""
    write_whole(temporary / INDEX, json.dumps(index.model_dump(mode="json"), indent=1) + "\n")
    sync(temporary)
    folder = temporary.parent
    final = folder / name_of(index.step)
    if final.exists():  # the same step again, after an incomplete checkpoint was skipped
        remove(final)
    os.rename(temporary, final)
    sync(folder)
    point_at(final)
    return final


def point_at(checkpoint: Path) -> None:
    """Write a checkpoint's name to `latest` if it differs: a run may have been killed between the rename and this."""
    latest, content = checkpoint.parent / LATEST, f"{checkpoint.name}\n"
    if latest.is_dir() and not latest.is_symlink():
        shutil.rmtree(latest)
    if not latest.is_file() or latest.stat().st_size > len(content) or latest.read_bytes() != content.encode():
        write_whole(latest, content)


def discard(temporary: Path) -> None:
    """Remove a checkpoint that could not be written, so that it takes no space on a full disk."""
    shutil.rmtree(temporary, ignore_errors=True)


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint; it is renamed first, so that a partly deleted one never has a checkpoint's name."""
    doomed = checkpoint.with_name(_DOOMED + checkpoint.name)
    os.rename(checkpoint, doomed)
    shutil.rmtree(doomed)


def prune(folder: Path, keep_last: int, keep_every_steps: int | None, newest: int) -> list[Path]:
    """Remove all but the last k checkpoints up to step `newest` and every n-th; return the removed ones.

    Later ones are incomplete and were skipped: if they counted among the last k, good ones would be removed.
    """
    old = [path for path in checkpoints_in(folder) if step_of(path) <= newest][keep_last:]
    if keep_every_steps:
        old = [path for path in old if step_of(path) % keep_every_steps]
    for path in old:
        remove(path)
    return old


def step_of(checkpoint: Path) -> int:
    """Return the step in a checkpoint's name."""
    return int(checkpoint.name.removeprefix("step_"))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> CheckpointFile:
    """Write a safetensors file, sync it to disk and return its entry in the index."""
    save_tensors(path, {name: tensor.contiguous() for name, tensor in tensors.items()})
    sync(path)
    return CheckpointFile(bytes=path.stat().st_size, sha256=_digest(path))


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, str] | None = None) -> None:
    """Save a safetensors file with the permissions of the umask; the library would restrict it to its owner."""
    path.touch()
    rights = path.stat().st_mode & 0o777
    try:
        save_file(tensors, path, metadata=about)
    except SafetensorError as error:  # raised on a full disk, among others
        raise OSError(str(error)) from error
    path.chmod(rights)


def read_index(checkpoint: Path) -> CheckpointIndex:
    """Read a checkpoint's index and compare file sizes; raise TornCheckpoint if it is incomplete."""
    path = checkpoint / INDEX
    try:
        if path.stat().st_size > _MOST_OF_INDEX:
            raise TornCheckpoint(f"{path} cannot be read: it has more than {_MOST_OF_INDEX:,} bytes")
        index = CheckpointIndex.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise TornCheckpoint(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        raise TornCheckpoint(f"{path} cannot be read: {mistake(error)}") from error
    if index.format != FORMAT:
        raise TornCheckpoint(f"{checkpoint} has format {index.format}, expected {FORMAT}")
    for name, entry in index.files.items():
        path = checkpoint / name
        size = path.stat().st_size if path.is_file() else -1
        if size != entry.bytes:
            raise TornCheckpoint(f"{path}: expected {entry.bytes} bytes, found {'nothing' if size < 0 else size}")
    return index


def check_file(checkpoint: Path, name: str, entry: CheckpointFile) -> None:
    """Compare a file's checksum with the index; raise TornCheckpoint if it differs."""
    if _digest(checkpoint / name) != entry.sha256:
        raise TornCheckpoint(f"{checkpoint / name}: the checksum differs from the one in {INDEX}")


def read_tensors(checkpoint: Path, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in some of a checkpoint's files one by one, so that only one is in memory at a time."""
    for name in names:
        try:
            yield from stream_tensors(checkpoint / name)
        except UserError as error:
            raise TornCheckpoint(str(error)) from error


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
