"""Tables on disk: columns of numbers and texts in one safetensors file, complete or absent, memory-mapped when read.

One file holds vectors together with their descriptions, so that rows cannot get out of step. Any safetensors reader can
read it: a text column is its bytes in UTF-8, one text after another, and `NAME.ends`, where each ends. Columns are
written block by block, and are never in memory all at once.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from trichord.core.console import counted
from trichord.core.errors import UserError
from trichord.core.files import whole_file
from trichord.core.reading import open_regular, parse_json, reason

ENDS = ".ends"
_NAMES = {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "U64": "u8", "U8": "u1"}
_CODES = {np.dtype(name): code for code, name in _NAMES.items()}
_ABOUT, _DIGEST = "about", "sha256"
_NO_DIGEST = "0" * 64
_LARGEST_HEADER = 1 << 24
_BLOCK = 1 << 24


class TornTable(UserError):
    """Raised for a file that is not a complete table."""


@dataclass(frozen=True)
class TableColumn:
    """Numbers to write: of one type, in blocks of rows that together have this shape."""

    dtype: Any
    shape: tuple[int, ...]
    blocks: Iterable[NDArray[Any]]


class Table:
    """An open table: its memory-mapped columns and its metadata."""

    def __init__(self, path: Path, columns: dict[str, NDArray[Any]], about: dict[str, Any], digest: str) -> None:
        self.path, self.columns, self.about, self._digest = path, columns, about, digest

    @classmethod
    def open(cls, path: Path) -> Table:
        """Open a table by memory mapping; raise TornTable if it is truncated or its columns do not match."""
        try:
            with open_regular(path) as file:
                header, start = _read_header(file)
                size = file.seek(0, 2)
            metadata = header.pop("__metadata__")
            about, digest = parse_json(metadata[_ABOUT], any_numbers=True), str(metadata[_DIGEST])
            wanted = max(int(entry["data_offsets"][1]) for entry in header.values())
            if not isinstance(about, dict):
                raise ValueError("its description is no object")
        except FileNotFoundError:
            raise
        except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            raise TornTable(f"{path} is truncated, or is not a trichord table: {reason(error)}") from error
        if size != start + wanted:
            raise TornTable(f"{path} has {size:,} bytes, expected {start + wanted:,}: it is truncated or was changed")
        # One mapping for all columns: a process may have only some ten thousand, and a set may have as many parts.
        data_X = np.memmap(path, np.uint8, "r", start) if wanted else np.empty(0, np.uint8)
        columns = {name: _column(path, data_X, entry) for name, entry in header.items()}
        table = cls(path, columns, about, digest)
        table._check_texts()
        return table

    def texts(self, name: str) -> TextColumn:
        """Return a column of texts."""
        return TextColumn(self.numbers(name, "u", 1), self.numbers(name + ENDS, "i", 1))

    def numbers(self, name: str, kind: str, dimensions: int) -> NDArray[Any]:
        """Return a column; raise TornTable if its numbers (by NumPy's letter) or its dimensions are others."""
        column = self.columns.get(name)
        if column is None or column.dtype.kind != kind or column.ndim != dimensions:
            found = "nothing" if column is None else f"{column.dtype} of the shape {column.shape}"
            raise TornTable(f"{self.path}: column {name}: found {found}, expected kind {kind!r}, {dimensions}-d")
        return column

    def check(self) -> None:
        """Verify the checksum, for which the whole file is read."""
        with self.path.open("rb") as file:
            _, start = _read_header(file)
            file.seek(start)
            found = _digest_of(file)
        if found != self._digest:
            raise TornTable(f"{self.path} has changed: its checksum is {found}, expected {self._digest}")

    def _check_texts(self) -> None:
        for name, ends_N in self.columns.items():
            if not name.endswith(ENDS):
                continue
            held = len(self.numbers(name.removesuffix(ENDS), "u", 1))
            last = int(self.numbers(name, "i", 1)[-1]) if len(ends_N) else 0
            if last != held:
                raise TornTable(f"{self.path}: {name} ends at {last:,}, expected {held:,}: rows are missing")

    @property
    def rows(self) -> int:
        """The number of rows that its description names."""
        rows = self.about.get("rows")
        if not isinstance(rows, int):
            raise TornTable(f"{self.path} does not say how many rows it has")
        return rows

    def check_rows(self, names: Sequence[str], count: int) -> None:
        """Raise TornTable if a column is missing or has another number of rows."""
        for name in names:
            rows = self.columns[name].shape[:1] if name in self.columns else ()
            if rows != (count,):
                found = counted(rows[0], "row") if rows else "no such column"
                raise TornTable(f"{self.path}: column {name}: found {found}, expected {counted(count, 'row')}")


class TextColumn(Sequence[str]):
    """A column of texts, each read on access."""

    def __init__(self, bytes_X: NDArray[Any], ends_N: NDArray[Any]) -> None:
        self._bytes_X, self._ends_N = bytes_X, ends_N

    def __len__(self) -> int:
        return len(self._ends_N)

    def __getitem__(self, row: Any) -> Any:
        first, last = int(self._ends_N[row - 1]) if row else 0, int(self._ends_N[row])
        if not 0 <= first <= last <= len(self._bytes_X):
            raise TornTable(f"text {row} of a table is from {first} to {last}. Next: trichord index check")
        return self._bytes_X[first:last].tobytes().decode(errors="replace")

    def rows_with_line(self, line: str) -> NDArray[np.bool_]:
        """Return which rows contain this line; the bytes are searched at once, not row by row."""
        wanted, held = line.encode(), self._bytes_X.tobytes()
        found_N = np.zeros(len(self), dtype=bool)
        at = held.find(wanted) if wanted else -1
        while at >= 0:
            row = min(int(np.searchsorted(self._ends_N, at, side="right")), len(self) - 1)
            first, last, end = int(self._ends_N[row - 1]) if row else 0, int(self._ends_N[row]), at + len(wanted)
            begins = at == first or held[at - 1 : at] == b"\n"
            found_N[row] |= begins and (end == last or (end < last and held[end : end + 1] == b"\n"))
            at = held.find(wanted, at + 1)
        return found_N

    def lengths(self) -> NDArray[np.int64]:
        """Return the length of each text in bytes."""
        lengths_N = np.diff(self._ends_N, prepend=0).astype(np.int64)
        if (lengths_N < 0).any():
            raise TornTable("a column of texts of a table is damaged. Next: trichord index check")
        return lengths_N

    def gathered(self, rows_n: NDArray[np.int64]) -> NDArray[Any]:
        """Return the bytes of some texts, one after another."""
        lengths_n = self.lengths()[rows_n]
        before_n = np.cumsum(lengths_n) - lengths_n
        starts_n = self._ends_N[rows_n] - lengths_n
        places = np.repeat(starts_n - before_n, lengths_n) + np.arange(int(lengths_n.sum()))
        return self._bytes_X[places]


def text_columns(name: str, texts: Sequence[str]) -> dict[str, TableColumn]:
    """Return the two columns of a column of texts."""
    encoded = [text.encode() for text in texts]
    joined = np.frombuffer(b"".join(encoded), np.uint8)
    ends_N = np.cumsum([len(each) for each in encoded], dtype=np.int64)
    return {name: whole(joined), name + ENDS: whole(ends_N)}


def whole(values: NDArray[Any]) -> TableColumn:
    """Return a column of an array in memory."""
    return TableColumn(values.dtype, values.shape, [values])


def write_table(path: Path, columns: Mapping[str, TableColumn], about: Mapping[str, Any]) -> None:
    """Write a table; the checksum is written into the header last."""
    ordered = sorted(columns.items(), key=lambda each: -np.dtype(each[1].dtype).itemsize)  # so that all are aligned
    header: dict[str, Any] = {"__metadata__": {_ABOUT: json.dumps(about, ensure_ascii=False), _DIGEST: _NO_DIGEST}}
    at = 0
    for name, column in ordered:
        dtype = np.dtype(column.dtype)
        end = at + math.prod(column.shape) * dtype.itemsize
        header[name] = {"dtype": _CODES[dtype], "shape": list(column.shape), "data_offsets": [at, end]}
        at = end
    with whole_file(path) as file:
        start = _write_header(file, header)
        for name, column in ordered:
            before = file.tell()
            for block in column.blocks:
                file.write(np.ascontiguousarray(block, dtype=column.dtype).data)
            begin, end = header[name]["data_offsets"]
            if file.tell() - before != end - begin:
                raise RuntimeError(f"{path}: column {name} got {file.tell() - before} bytes, expected {end - begin}")
        file.seek(start)
        header["__metadata__"][_DIGEST] = _digest_of(file)
        file.seek(0)
        _write_header(file, header)


def _write_header(file: BinaryIO, header: Mapping[str, Any]) -> int:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    return 8 + len(text)


def _read_header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    size = int.from_bytes(file.read(8), "little")
    if not 0 < size <= _LARGEST_HEADER:
        raise ValueError(f"the header has {size} bytes")
    text = file.read(size)
    if len(text) < size:
        raise ValueError("the header ends too early")
    header = parse_json(text)
    return header, 8 + size


def _column(path: Path, data_X: NDArray[Any], entry: Mapping[str, Any]) -> NDArray[Any]:
    try:
        dtype, shape = np.dtype(_NAMES[entry["dtype"]]), tuple(map(int, entry["shape"]))
        begin, end = map(int, entry["data_offsets"])
        if not 0 <= begin <= end or any(size < 0 for size in shape):
            raise ValueError(f"a column is from {begin} to {end}, of the shape {shape}")
        return data_X[begin:end].view(dtype).reshape(shape)
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        raise TornTable(f"{path} is not a trichord table: {error}") from error


def _digest_of(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()
