"""Kinetics-400, -600 and -700: official csv and txt lists with CVDF's flat folders or class folders."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from trichord.core.errors import UserError, shown
from trichord.shards.layouts.listing import (
    Item,
    Layout,
    Listing,
    VideoIndex,
    first_existing,
    key_from,
    read_cells,
    read_lines,
    read_number,
    relative_name,
)
from trichord.shards.record import Annotation

_SPELLINGS = {
    "train": ("train",),
    "val": ("val", "validate", "validation"),
    "test": ("test",),
    "holdout_test": ("kinetics600_holdout_test", "holdout_test"),
}
_FOLDERS = ("annotations/", "")
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{0,9})?")


@dataclass(frozen=True)
class _Row:
    """A line of a list; `label` is a name, a number as text (path lists) or None (test lists)."""

    stem: str
    label: str | None
    extra: dict[str, str | float]


class KineticsLayout(Layout):
    """Layout of Kinetics. Classes are numbered alphabetically over all existing lists, as is customary.

    If both exist, the txt list is read: the csv lists of Kinetics-600 are marked incomplete by their publisher.
    """

    name: ClassVar[str] = "kinetics"
    summary: ClassVar[str] = "Kinetics-400/600/700: annotations/{train,val,test}.csv|txt and flat or class folders"
    expects: ClassVar[str] = """\
  ROOT/annotations/{train,val,test}.csv or .txt, rows label,youtube_id,time_start,time_end,split
    (with or without a header, or path lists "PATH LABEL" / "PATH,LABEL")
  videos ID_000010_000020.mp4 anywhere below ROOT: ROOT/{train,val,test}/[CLASS/]..., replacement_* folders first"""
    version: int | None = None  # 400, 600 or 700: lists with another number of classes are refused

    def splits(self, root: Path) -> tuple[str, ...]:
        """Return the splits whose lists exist."""
        found = tuple(split for split in _SPELLINGS if first_existing(root, _candidates(split)))
        if not found:
            raise self.not_found("annotation list", [name for split in _SPELLINGS for name in _candidates(split)], root)
        return found

    def list_split(self, root: Path, split: str) -> Listing:
        """List a split; its files are found by name in any folder below the root."""
        lists = {name: _read_list(self._list_of(root, name)) for name in self.splits(root)}
        classes = self._classes(root, {row.label for rows in lists.values() for row in rows if row.label is not None})
        numbers = {name: number for number, name in enumerate(classes)}
        by_number = all(label.isdecimal() for label in numbers) or (root / "classes.txt").is_file()
        videos = VideoIndex(root)
        prefer = [*_replacement_folders(root), *_SPELLINGS[split]]
        items: list[Item] = []
        missing: list[str] = []
        for row in lists[split]:
            path = videos.find(row.stem, prefer) or videos.find(str(row.extra.get("youtube_id", "")), prefer)
            if path is None:
                missing.append(f"{row.stem}.mp4")
                continue
            labels = () if row.label is None else (_number(row.label, numbers, by_number),)
            annotation = Annotation(labels=labels, source=relative_name(path, root), split=split, extra=row.extra)
            items.append(Item(key_from(row.stem), path, annotation))
        return Listing(classes, items, tuple(missing))

    def _list_of(self, root: Path, split: str) -> Path:
        return self.find(root, f"list of {split}", _candidates(split))

    def _classes(self, root: Path, labels: set[str]) -> tuple[str, ...]:
        if all(label.isdecimal() for label in labels) and (root / "classes.txt").is_file():
            classes = tuple(read_lines(root / "classes.txt"))
        elif all(label.isdecimal() for label in labels):
            numbers = (read_number(label, f"kinetics: a list under {root}") for label in labels)
            classes = tuple(str(number) for number in range(max(numbers, default=-1) + 1))
        else:
            classes = tuple(sorted(labels))
        if self.version is not None and len(classes) != self.version:
            raise UserError(
                f"kinetics: number of classes in the lists under {root}: {len(classes)}, expected {self.version}. "
                "Versions must not be mixed: validation videos of one version are training videos of another. "
                "Next: use one folder per version."
            )
        return classes


def _candidates(split: str) -> list[str]:
    stems = [
        f"{prefix}{spelling}"
        for spelling in _SPELLINGS[split]
        for prefix in ("", "kinetics_", *(f"kinetics{mark}{n}_" for n in (400, 600, 700) for mark in ("", "_", "-")))
    ]
    return [f"{folder}{stem}{suffix}" for folder in _FOLDERS for stem in stems for suffix in (".txt", ".csv")]


def _replacement_folders(root: Path) -> list[str]:
    """Return the folders in which CVDF reissued some 1,400 corrupted training videos of Kinetics-400."""
    return sorted({path.name for path in root.glob("**/replacement*") if path.is_dir()})


def _number(label: str, numbers: dict[str, int], by_number: bool) -> int:
    number = read_number(label, "kinetics: a class") if by_number and label.isdecimal() else numbers[label]
    if number >= len(numbers):
        raise UserError(f"kinetics: a list has the class number {number}, expected 0 to {len(numbers) - 1}")
    return number


def _read_list(path: Path) -> list[_Row]:
    rows = [stripped for row in read_cells(path) if any(stripped := [cell.strip() for cell in row])]
    if rows and "youtube_id" in rows[0]:
        header = rows[0]
        return [_official_row(dict(zip(header, row, strict=False)), path) for row in rows[1:]]
    return [_row_without_header(row, path) for row in rows]


def _row_without_header(row: list[str], path: Path) -> _Row:
    if len(row) >= 4 and _is_number(row[2]) and _is_number(row[3]):
        return _official_row(dict(zip(("label", "youtube_id", "time_start", "time_end"), row, strict=False)), path)
    line = ",".join(row)
    name, _, label = line.rpartition(",") if "," in line else line.rpartition(" ")
    if name and label.strip().isdecimal():
        return _Row(Path(name.strip()).stem, label.strip(), {})
    if not Path(line).suffix:
        raise UserError(f"{path}: cannot read the line {line!r}, expected label,youtube_id,time_start,time_end,split")
    folder = Path(line).parent.name
    return _Row(Path(line).stem, folder.replace("_", " ") or None, {})


def _official_row(cells: dict[str, str], path: Path) -> _Row:
    start, end = cells.get("time_start", ""), cells.get("time_end", "")
    identity = cells.get("youtube_id", "").strip()
    if not identity or not _is_number(start) or not _is_number(end):
        raise UserError(f"{path}: {shown(identity)} has the times {shown(start)} to {shown(end)}, expected seconds")
    stem = f"{identity}_{int(float(start)):06d}_{int(float(end)):06d}"
    label = cells.get("label", "").strip() or None
    return _Row(stem, label, {"youtube_id": identity, "time_start": float(start), "time_end": float(end)})


def _is_number(text: str) -> bool:
    return _SECONDS.fullmatch(text.strip()) is not None
