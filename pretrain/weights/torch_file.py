"""Reads files of torch.save, of both formats, without unpickling; the tensors are views of the mapped file.

Since torch 1.6 a file is an uncompressed zip archive of one pickle and a member for each storage. Before, it was five
pickles, of which the fourth holds the tensors and the fifth the keys of the storages that follow, each after its size.
"""

from __future__ import annotations

import io
import math
import mmap
import pickle
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trichord.core.errors import UserError
from trichord.core.zip_source import ZipSource
from trichord.pretrain.weights.pickled import Described, describe
from trichord.pretrain.weights.stored import BadPickle, Storage, StoredTensor

_ZIP = b"PK\x03\x04"
_LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_BEFORE_TENSORS = 3  # pickles of a legacy file: magic number, version, sizes of the machine's numbers
_MOST_OF_PICKLE = 1 << 28
_LOCAL_HEADER = struct.Struct("<26xHH")
_NAMES_SHOWN = 8


def is_torch_file(start: bytes) -> bool:
    """Return whether a file with these first bytes is of torch.save."""
    return start.startswith((_ZIP, _LEGACY))


@dataclass(frozen=True)
class TorchFile:
    """What a file of torch.save holds: plain values, with a `StoredTensor` in place of each tensor."""

    path: Path
    value: Any
    _bytes: mmap.mmap
    _places: dict[str, tuple[int, int]]  # of storages: first byte and length

    def tensor(self, stored: StoredTensor) -> Tensor:
        """Return a tensor; raise UserError unless its storage holds it."""
        try:
            return self._view(stored)
        except BadPickle as error:
            raise damaged(self.path, error) from error

    def _view(self, stored: StoredTensor) -> Tensor:
        storage, size = stored.storage, stored.dtype.itemsize
        count = storage.count * storage.dtype.itemsize // size
        numbers = math.prod(stored.shape)
        if numbers == 0:
            return torch.empty(0, dtype=stored.dtype).as_strided(stored.shape, stored.strides)
        steps = zip(stored.shape, stored.strides, strict=True)
        last = stored.offset + sum((length - 1) * stride for length, stride in steps)
        # Of a tensor that repeats its numbers the strides are 0; it takes more memory as soon as it is copied.
        if last >= count or numbers * size > len(self._bytes):
            shape = "x".join(map(str, stored.shape))
            raise BadPickle(f"a tensor of {shape} numbers is larger than its storage of {count:,}")
        first, length = self._places.get(storage.key, (0, -1))
        first += storage.first * storage.dtype.itemsize
        if (storage.first + storage.count) * storage.dtype.itemsize > length:
            raise BadPickle(f"its storage {storage.key[:80]!r} is not all there")
        flat = torch.frombuffer(self._bytes, dtype=torch.uint8, count=count * size, offset=first)
        if flat.data_ptr() % size:  # in legacy files
            flat = flat.clone()
        return flat.view(stored.dtype).as_strided(stored.shape, stored.strides, stored.offset)


def open_torch_file(path: Path) -> TorchFile:
    """Open a file of torch.save; raise UserError if it is damaged, or if unpickling it would run code."""
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        described, places = (_read_zip if mapped[:4] == _ZIP else _read_legacy)(path, mapped)
    except BadPickle as error:
        raise damaged(path, error) from error
    if described.foreign:
        raise UserError(_refusal_of_code(path, described.foreign))
    return TorchFile(path, described.value, mapped, places)


def damaged(path: Path, error: Exception) -> UserError:
    """Return the message for a file that is not as torch.save wrote it."""
    return UserError(f"{path} is a damaged file of torch.save: {error}. Next: download it again")


def _read_zip(path: Path, mapped: mmap.mmap) -> tuple[Described, dict[str, tuple[int, int]]]:
    try:
        with ZipSource(path) as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    # The library raises a dozen kinds of errors for a damaged directory, of which it names one.
    except Exception as error:
        raise BadPickle(f"it is not a complete zip archive ({str(error)[:200] or type(error).__name__})") from error
    names = {member.filename for member in members}
    pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if any(name.endswith("/constants.pkl") for name in names):
        raise UserError(_refusal_of_torchscript(path))
    if len(pickles) != 1 or len(names) < len(members):
        raise BadPickle("it is a zip archive without one data.pkl, which files of torch.save have")
    top = pickles[0].removesuffix("data.pkl")
    places = {member.filename: _place(member, mapped) for member in members}
    first, length = places.get(f"{top}byteorder", (0, 0))
    if mapped[first : first + length] == b"big":
        raise UserError(f"{path} holds big-endian numbers. Next: save it again on an ordinary machine")
    first, length = places[pickles[0]]
    if length > _MOST_OF_PICKLE:
        raise BadPickle(f"its pickle has {length:,} bytes, expected at most {_MOST_OF_PICKLE:,}")
    described = describe(io.BytesIO(mapped[first : first + length]))
    of_storage = f"{top}data/"
    return described, {
        name.removeprefix(of_storage): place for name, place in places.items() if name.startswith(of_storage)
    }


def _place(member: zipfile.ZipInfo, mapped: mmap.mmap) -> tuple[int, int]:
    """Return the first byte and the length of a member, which torch.save stores as it is."""
    start = member.header_offset
    header = mapped[start : start + _LOCAL_HEADER.size] if start >= 0 else b""
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 or member.compress_size != member.file_size:
        raise BadPickle(f"its member {member.filename[:80]!r} is compressed, which torch.save does not do")
    if len(header) < _LOCAL_HEADER.size or not header.startswith(_ZIP):
        raise BadPickle(f"its member {member.filename[:80]!r} is not where its directory says")
    name_length, extra_length = _LOCAL_HEADER.unpack(header)
    first = start + _LOCAL_HEADER.size + name_length + extra_length
    if first + member.file_size > len(mapped):
        raise BadPickle(f"its member {member.filename[:80]!r} is not all there")
    return first, member.file_size


def _read_legacy(path: Path, mapped: mmap.mmap) -> tuple[Described, dict[str, tuple[int, int]]]:
    machine: Any = None
    for _ in range(_BEFORE_TENSORS):
        machine = describe(mapped).value
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        raise UserError(f"{path} holds big-endian numbers. Next: save it again on an ordinary machine")
    described, keys = describe(mapped), describe(mapped).value
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise BadPickle("it does not list its storages")
    return described, dict(_legacy_places(described.storages, keys, mapped))


def _legacy_places(
    storages: dict[str, Storage], keys: list[str], mapped: mmap.mmap
) -> Iterator[tuple[str, tuple[int, int]]]:
    for key in keys:
        size, storage = mapped.read(8), storages.get(key)
        if storage is None or len(size) < 8 or int.from_bytes(size, "little") != storage.count:
            raise BadPickle(f"its storage {key[:80]!r} is not as its pickle describes it")
        length = storage.count * storage.dtype.itemsize
        if length > len(mapped) - mapped.tell():
            raise BadPickle(f"its storage {key[:80]!r} is not all there")
        yield key, (mapped.tell(), length)
        mapped.seek(length, io.SEEK_CUR)


def _refusal_of_torchscript(path: Path) -> str:
    out = path.with_suffix(".safetensors")
    return (
        f"{path} is a TorchScript program, like OpenAI's CLIP files, and trichord runs no code from weight files. "
        "If you trust its source, extract the tensors:\n"
        "  python -c 'import torch, safetensors.torch as s; "
        f'found = torch.jit.load("{path}", map_location="cpu").state_dict(); '
        f's.save_file({{n: t.contiguous() for n, t in found.items()}}, "{out}")\'\n'
        f"then use {out}."
    )


def _refusal_of_code(path: Path, foreign: set[str]) -> str:
    more = f" and {len(foreign) - _NAMES_SHOWN} more" if len(foreign) > _NAMES_SHOWN else ""
    code = ", ".join(name[:80] for name in sorted(foreign)[:_NAMES_SHOWN]) + more
    out = path.with_suffix(".safetensors")
    return (
        f"{path} would run {code}, and trichord runs no code from weight files. If you trust its source, extract the "
        "tensors on a machine without valuable data:\n"
        "  python -c 'import torch, safetensors.torch as s; "
        f'found = torch.load("{path}", weights_only=False, map_location="cpu"); '
        f's.save_file({{n: t.contiguous() for n, t in found["model_state"].items()}}, "{out}")\'\n'
        "(with the part that holds the weights, such as teacher, student, model_state, state_dict, model); "
        f"then use {out}."
    )
