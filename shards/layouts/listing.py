"""The interface of layouts (classes, items, missing files), and helpers for finding and reading official files."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from trichord.core.errors import UserError, shown
from trichord.core.reading import mistake, parse_json, read_bytes, reason
from trichord.shards.record import VIDEO_EXTENSIONS, Annotation

_READABLE_EXTENSIONS = frozenset({*VIDEO_EXTENSIONS, "flv", "wmv", "3gp", "ts", "mts", "ogv"})
_LARGEST_LIST = 1 << 31
_MOST_CLASSES = 1_000_000
_NUMBER = re.compile("[0-9]{1,9}")
_KEY_LENGTH = 80  # a ustar header has 100 bytes for the name, including the extension

T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """One clip to write: the path of its media or a function that creates it, and its annotation."""

    key: str
    path: Path
    annotation: Annotation
    load: Callable[[], bytes] | None = None  # returns finished media, which is written unchanged; must be picklable


@dataclass(frozen=True)
class Listing:
    """A split of a dataset; `missing` names the files in the official lists that do not exist."""

    classes: tuple[str, ...]
    items: list[Item]
    missing: tuple[str, ...] = ()


class Layout(BaseModel, ABC):
    """The arrangement of a dataset's files; the fields of a subclass are the options of that layout."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str]
    summary: ClassVar[str]  # one line for `--help`
    expects: ClassVar[str]  # the tree of files, shown in error messages

    @abstractmethod
    def splits(self, root: Path) -> tuple[str, ...]:
        """Return the existing splits; raise UserError if there are none."""

    @abstractmethod
    def list_split(self, root: Path, split: str) -> Listing:
        """List one of `splits(root)`."""

    def read(self, root: Path, split: str) -> Listing:
        """List a split with unique keys, in the order of the dataset's own lists."""
        known = self.splits(root)
        if split not in known:
            raise UserError(
                f"{self.name}: {root} has no split {split!r}. It has: {', '.join(known)}. Next: --splits {known[0]}"
            )
        try:
            listing = self.list_split(root, split)
        except ValidationError as error:
            raise UserError(f"{self.name}: an annotation of {split} under {root} is wrong: {mistake(error)}") from error
        return replace(listing, items=_with_distinct_keys(listing.items, root), missing=tuple(sorted(listing.missing)))

    def not_found(self, what: str, looked_for: Iterable[str], root: Path) -> UserError:
        """Return an error that names the searched paths and the files that this layout expects."""
        tried = "\n  ".join(dict.fromkeys(looked_for))
        return UserError(
            f"{self.name}: found no {what} under {root}. Searched for:\n  {tried}\n"
            f"This layout expects:\n{self.expects.rstrip()}\n"
            f"Next: set --root to the folder that contains these, e.g. trichord shards build {self.name} --root DIR ..."
        )

    def find(self, root: Path, what: str, candidates: Sequence[str]) -> Path:
        """Return the first existing candidate, or raise `not_found`."""
        found = first_existing(root, candidates)
        if found is None:
            raise self.not_found(what, candidates, root)
        return found


class VideoIndex:
    """Index of all video files under a folder by name without extension; one walk serves a whole listing."""

    def __init__(self, root: Path) -> None:
        self._by_stem: dict[str, list[Path]] = {}
        self._by_folded: dict[str, list[Path]] = {}
        for path in walk_videos(root):
            self._by_stem.setdefault(path.stem, []).append(path)
            self._by_folded.setdefault(path.stem.casefold(), []).append(path)

    def __len__(self) -> int:
        return len(self._by_stem)

    def find(self, stem: str, prefer: Sequence[str] = ()) -> Path | None:
        """Return the file with that name, from the preferred folders first; an exact match of case has precedence."""
        found = self._by_stem.get(stem) or self._by_folded.get(stem.casefold()) or []
        for folder in prefer:
            for path in found:
                if folder in path.parent.parts:
                    return path
        return found[0] if found else None


def walk_videos(root: Path) -> list[Path]:
    """Return the video files under a folder, sorted; links are followed, and each real folder is visited once."""
    found: list[Path] = []
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders.sort()
        found += [Path(folder, name) for name in names if is_video(name)]
    return sorted(found)


def is_video(name: str) -> bool:
    """Return whether a file is a video by its extension; hidden files (`._x.mp4` in tars from macOS) are not."""
    return not name.startswith(".") and name.rpartition(".")[2].lower() in _READABLE_EXTENSIONS


def first_existing(root: Path, candidates: Sequence[str]) -> Path | None:
    """Return the first of these relative paths that exists under root, or None."""
    return next((root / name for name in candidates if (root / name).exists()), None)


def key_from(name: str) -> str:
    """Return a key without dots and slashes; a changed name is made unique by a short hash."""
    clean = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    if clean == name and 0 < len(name) <= _KEY_LENGTH:
        return name
    return f"{clean[: _KEY_LENGTH - 9]}-{_short_hash(name)}"


def relative_name(path: Path, root: Path) -> str:
    """Return a path relative to the root, with forward slashes."""
    return Path(os.path.relpath(path, root)).as_posix()


def read_text(path: Path) -> str:
    """Read text with any line endings, with or without a byte order mark; old lists that are not UTF-8 are latin-1."""
    try:
        raw = read_bytes(path, _LARGEST_LIST)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error
    if b"\0" in raw:
        line = raw.count(b"\n", 0, raw.index(b"\0")) + 1
        raise UserError(f"{path}, line {line}: found a NUL character. Next: save the file as UTF-8 text")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> list[str]:
    """Read the non-empty lines, without surrounding white space."""
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]


def read_rows(path: Path, required: Sequence[str]) -> list[dict[str, str]]:
    """Read a comma-separated file as one dictionary per row, by the column names in its header."""
    header, *rows = read_cells(path) or [[]]
    header = [name.strip() for name in header]
    absent = [name for name in required if name not in header]
    if absent:
        found = ", ".join(header)[:200] or "nothing"
        raise UserError(f"{path}: the header lacks {', '.join(absent)}. Found: {found}.")
    return [
        {name: cell for name, cell in zip_longest(header, row[: len(header)], fillvalue="") if name} for row in rows
    ]


def read_cells(path: Path) -> list[list[str]]:
    """Read the rows of a comma-separated file, without empty ones."""
    reader = csv.reader(read_text(path).splitlines(keepends=True))
    try:
        return [row for row in reader if row]
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from error


def read_json(path: Path, form: TypeAdapter[T]) -> T:
    """Read a JSON file of a form; raise UserError, which names the place, for one of another form."""
    try:
        return form.validate_python(parse_json(read_text(path)))
    except ValidationError as error:
        raise UserError(f"{path}: {mistake(error)}. Next: download it again.") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({reason(error)}). Next: download it again.") from error


def read_number(text: str, where: str, most: int = _MOST_CLASSES) -> int:
    """Return a whole number, such as that of a class; raise UserError for anything else."""
    if not _NUMBER.fullmatch(text.strip()) or int(text) > most:
        raise UserError(f"{where}: found {shown(text)}, expected a whole number up to {most:,}")
    return int(text)


def _short_hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def _with_distinct_keys(items: Iterable[Item], root: Path) -> list[Item]:
    """Make shared keys unique by a hash of the path, the part of the source and, among equals, the position."""
    listed = list(items)
    counts = Counter(item.key for item in listed)
    seen: Counter[str] = Counter()
    distinct: list[Item] = []
    for item in listed:
        if counts[item.key] == 1:
            distinct.append(item)
            continue
        identity = f"{relative_name(item.path, root)}|{item.annotation.start}|{item.annotation.end}"
        seen[identity] += 1
        suffix = _short_hash(f"{identity}|{seen[identity]}")
        distinct.append(replace(item, key=f"{item.key[: _KEY_LENGTH - 9]}-{suffix}"))
    return distinct
