"""What every layout gives (classes, items, what is missing), and how official files are looked for."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from trichord.core.errors import UserError
from trichord.shards.record import VIDEO_EXTENSIONS, Annotation

_READABLE_EXTENSIONS = frozenset({*VIDEO_EXTENSIONS, "flv", "wmv", "3gp", "ts", "mts", "ogv"})
_KEY_LENGTH = 80  # a tar header of the ustar format has room for 100 bytes, extension included


@dataclass(frozen=True)
class Item:
    """One clip to be: where its media is, or how to make it, and all that is known of it."""

    key: str
    path: Path
    annotation: Annotation
    load: Callable[[], bytes] | None = None  # gives finished media, written as it is; must survive pickling


@dataclass(frozen=True)
class Listing:
    """A split of a dataset; `missing` names what the official lists promise and the disk does not hold."""

    classes: tuple[str, ...]
    items: list[Item]
    missing: tuple[str, ...] = ()


class Layout(BaseModel, ABC):
    """A dataset's own files; the fields of a subclass are the options that layout takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str]
    expects: ClassVar[str]  # the tree of files, as it stands in error messages

    @abstractmethod
    def splits(self, root: Path) -> tuple[str, ...]:
        """Name the splits that are there; none at all is a UserError."""

    @abstractmethod
    def list_split(self, root: Path, split: str) -> Listing:
        """List one of `splits(root)`."""

    def read(self, root: Path, split: str) -> Listing:
        """List a split under distinct keys, in the order of the dataset's own lists."""
        known = self.splits(root)
        if split not in known:
            raise UserError(
                f"{self.name}: {root} has no split {split!r}. It has: {', '.join(known)}. Next: --splits {known[0]}"
            )
        listing = self.list_split(root, split)
        return replace(listing, items=_with_distinct_keys(listing.items, root), missing=tuple(sorted(listing.missing)))

    def not_found(self, what: str, looked_for: Iterable[str], root: Path) -> UserError:
        """Say which file was looked for where, and what this layout expects."""
        tried = "\n  ".join(dict.fromkeys(looked_for))
        return UserError(
            f"{self.name}: found no {what} under {root}. Looked for:\n  {tried}\n"
            f"This layout expects:\n{self.expects.rstrip()}\n"
            f"Next: give the folder that holds these as --root, e.g. trichord shards build {self.name} --root DIR ..."
        )

    def find(self, root: Path, what: str, candidates: Sequence[str]) -> Path:
        """Give the first candidate that exists, or raise `not_found`."""
        found = first_existing(root, candidates)
        if found is None:
            raise self.not_found(what, candidates, root)
        return found


class VideoIndex:
    """Every video file under a folder by its name without extension; one walk serves a whole listing."""

    def __init__(self, root: Path) -> None:
        self._by_stem: dict[str, list[Path]] = {}
        self._by_folded: dict[str, list[Path]] = {}
        for path in walk_videos(root):
            self._by_stem.setdefault(path.stem, []).append(path)
            self._by_folded.setdefault(path.stem.casefold(), []).append(path)

    def __len__(self) -> int:
        return len(self._by_stem)

    def find(self, stem: str, prefer: Sequence[str] = ()) -> Path | None:
        """Give the file of that name, first from the preferred folders; case decides only between two."""
        found = self._by_stem.get(stem) or self._by_folded.get(stem.casefold()) or []
        for folder in prefer:
            for path in found:
                if folder in path.parent.parts:
                    return path
        return found[0] if found else None


def walk_videos(root: Path) -> list[Path]:
    """List the video files under a folder, sorted; links are followed, each real folder once."""
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
    """Tell a video by its extension; hidden files (`._x.mp4` of a Mac's tar) are none."""
    return not name.startswith(".") and name.rpartition(".")[2].lower() in _READABLE_EXTENSIONS


def first_existing(root: Path, candidates: Sequence[str]) -> Path | None:
    """Give the first of these relative paths that exists under root."""
    return next((root / name for name in candidates if (root / name).exists()), None)


def key_from(name: str) -> str:
    """Make a key without dots and slashes; a name that had to change keeps its identity in a short hash."""
    clean = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    if clean == name and 0 < len(name) <= _KEY_LENGTH:
        return name
    return f"{clean[: _KEY_LENGTH - 9]}-{_short_hash(name)}"


def relative_name(path: Path, root: Path) -> str:
    """Write a path relative to the root, with forward slashes."""
    return Path(os.path.relpath(path, root)).as_posix()


def read_text(path: Path) -> str:
    """Read text with any line ends and with or without a byte order mark; old lists are sometimes latin-1."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> list[str]:
    """Read the lines that hold something, without white space around them."""
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]


def read_rows(path: Path, required: Sequence[str]) -> list[dict[str, str]]:
    """Read a comma-separated file by the names of its header."""
    reader = csv.DictReader(read_text(path).splitlines(keepends=True), restkey="", restval="")
    header = [name.strip() for name in reader.fieldnames or []]
    absent = [name for name in required if name not in header]
    if absent:
        raise UserError(f"{path}: the header lacks {', '.join(absent)}. Found: {', '.join(header) or 'nothing'}.")
    reader.fieldnames = header
    return [{name: value for name, value in row.items() if name} for row in reader]


def read_json(path: Path) -> Any:
    """Read a JSON file, or say that it is none."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}). Next: download it again.") from error


def _short_hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def _with_distinct_keys(items: Iterable[Item], root: Path) -> list[Item]:
    """Tell apart items that share a key by their path, their part of it and, last, their place among equals."""
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
