"""Reads the tensors of files from anywhere, without executing code from them: the only way in.

A file is read by its content, whatever its name ends in. It may be damaged or forged: `read_tensors` returns tensors
that the file holds in full, with printable names, or raises UserError. They are views of the mapped file, so a header
that claims more than there is takes no memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import safe_open
from torch import Tensor

from trichord.core.errors import UserError
from trichord.pretrain.weights.naming import shortened
from trichord.pretrain.weights.stored import StoredTensor
from trichord.pretrain.weights.torch_file import TorchFile, is_torch_file, open_torch_file

# Keys of weights in files, in order of preference: the teacher is better than the student.
PARTS = ("teacher", "student", "model_state", "state_dict", "model")
_WHOLE, _SHARDED, _FORMER = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
SAFETENSORS_FILES = (_WHOLE, _SHARDED)
FOLDER_FILES = (*SAFETENSORS_FILES, _FORMER)  # one of which is in a folder of Hugging Face
_MOST_OF_HEADER = 1 << 25  # of a safetensors file; parsing it takes about six times as much memory
_LONGEST_NAME = 500
_MOST_DIMENSIONS = 16
_START_BYTES = 64
# What is often in the place of a file that was not fetched.
_STAND_INS = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself. Next: git lfs pull",
    b"<": "a page of HTML or XML, not weights. Next: download the file itself",
}


def read_tensors(path: Path, part: str | None = None) -> dict[str, Tensor]:
    """Read the tensors of a file, or of one part if it has several, with the names in the file."""
    try:
        return _read_folder(path, part) if path.is_dir() else _read_file(path, part)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_folder(folder: Path, part: str | None) -> dict[str, Tensor]:
    """Read what Hugging Face saved, now or formerly."""
    name = next((name for name in FOLDER_FILES if (folder / name).is_file()), _WHOLE)
    return _read_shards(folder / name) if name == _SHARDED else _read_file(folder / name, part)


def _read_file(path: Path, part: str | None) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"found no file {path}; expected weights as .safetensors, .pth, .pyth, .pt or .bin")
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
    if is_torch_file(start):
        return _choose(open_torch_file(path), part, path)
    if start[8:9] != b"{":  # with which the header of a safetensors file begins
        for mark, what in _STAND_INS.items():
            if start.startswith(mark):
                raise UserError(f"{path} is {what}")
        if path.suffix != ".safetensors":
            raise UserError(
                f"{path} is not a complete file of torch.save; expected a file of torch.save or .safetensors. "
                "Next: download it again"
            )
    return dict(stream_tensors(path))


def stream_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a safetensors file one by one, so that only one is in memory at a time."""
    try:
        with path.open("rb") as file:
            _check_header(int.from_bytes(file.read(8), "little"))
        with safe_open(path, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  (it is not a dict)
                yield _checked(name, opened.get_tensor(name))
    except OSError:
        raise
    # The library raises its own errors, and those of Python and torch for sizes that they cannot represent.
    except Exception as error:
        raise UserError(
            f"{path} is not a complete safetensors file ({_reason(error)}). Next: download it again"
        ) from error


def parse_tensors(data: bytes) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file in memory; raise ValueError if it is damaged."""
    _check_header(int.from_bytes(data[:8], "little"))
    try:
        found = safetensors.torch.load(data)
    except Exception as error:  # as above
        raise ValueError(f"it is not a complete safetensors file ({_reason(error)})") from error
    return dict(_checked(name, tensor) for name, tensor in found.items())


def _check_header(size: int) -> None:
    if size > _MOST_OF_HEADER:
        raise ValueError(f"its header has {size:,} bytes, expected at most {_MOST_OF_HEADER:,}")


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0][:200]


def _checked(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Return a tensor with its name; raise ValueError for what would be no message or take no network."""
    if not name.isprintable() or len(name) > _LONGEST_NAME:
        raise ValueError(f"the name {name[:80]!a} is not a tensor's")
    if tensor.ndim > _MOST_DIMENSIONS:
        raise ValueError(f"{name[:80]} has {tensor.ndim} dimensions, expected at most {_MOST_DIMENSIONS}")
    return name, tensor


def _read_shards(index: Path) -> dict[str, Tensor]:
    """Read the safetensors files that an index of Hugging Face names."""
    try:
        if index.stat().st_size > _MOST_OF_HEADER:
            raise ValueError(f"it has more than {_MOST_OF_HEADER:,} bytes")
        places = json.loads(index.read_bytes())["weight_map"]
        names = sorted({str(name) for name in places.values()})
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{index} is not an index of safetensors files ({_reason(error)}). Next: download it again"
        ) from error
    found: dict[str, Tensor] = {}
    for name in names:
        path = index.parent / name
        if Path(name).name != name or path.suffix != ".safetensors" or not path.is_file():
            raise UserError(f"{index} names {name[:80]!r}, which is no safetensors file beside it. Next: download it")
        found |= stream_tensors(path)
    if missing := sorted(set(places) - set(found)):
        raise UserError(f"{index} names tensors that its files lack: {shortened(missing)}. Next: download them again")
    return found


def _choose(file: TorchFile, part: str | None, path: Path) -> dict[str, Tensor]:
    found = file.value
    if not isinstance(found, dict):
        kind = "tensor" if isinstance(found, StoredTensor) else type(found).__name__
        raise UserError(f"{path} holds a {kind}; expected a dict of tensors")
    parts = [name for name, value in found.items() if isinstance(name, str) and _holds_tensors(value)]
    if part is not None and part not in parts:
        raise UserError(
            f"{path} has no part {part}; found {shortened(parts) or 'none'}. Omit the part, or name one of these."
        )
    part = part or next((name for name in PARTS if name in parts), None)  # the file may have scalar tensors as well
    chosen = _stored(found) if part is None else _stored(found[part])
    if not chosen:
        raise UserError(f"{path} holds tensors in none of {', '.join(PARTS)}; found {shortened(map(str, found))}")
    try:
        return dict(_checked(name, file.tensor(stored)) for name, stored in chosen.items())
    except ValueError as error:
        raise UserError(f"{path} is a damaged file of torch.save: {error}. Next: download it again") from error


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, dict) and bool(_stored(value))


def _stored(values: dict[Any, Any]) -> dict[str, StoredTensor]:
    return {str(name): value for name, value in values.items() if isinstance(value, StoredTensor)}
