"""Charades: household activities with several overlapping actions per video, a script and descriptions."""

from __future__ import annotations

import math
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
    read_lines,
    read_number,
    read_rows,
    relative_name,
)
from trichord.shards.record import Annotation, Interval

_FOLDERS = ("", "Charades/", "annotations/")
_COLUMNS = ("id", "script", "descriptions", "actions")


class CharadesLayout(Layout):
    """Layout of Charades. Videos without actions are kept, because the official localisation metric counts them.

    Intervals are clipped to the video's length, which many of the official ones exceed. An interval entirely beyond it
    is dropped and its label kept, because the official classification metric only considers whether an action occurs.
    The official strings are kept in `extra` for those metrics.
    """

    name: ClassVar[str] = "charades"
    summary: ClassVar[str] = "Charades_v1_{train,test}.csv, Charades_v1_classes.txt and ID.mp4"
    expects: ClassVar[str] = """\
  ROOT/Charades_v1_train.csv and Charades_v1_test.csv (or in ROOT/Charades/), ROOT/Charades_v1_classes.txt beside
  ROOT/Charades_v1_480/ID.mp4 or ROOT/Charades_v1/ID.mp4 (anywhere below ROOT)"""

    def splits(self, root: Path) -> tuple[str, ...]:
        """Return the splits whose csv exists."""
        found = tuple(split for split in ("train", "test") if first_existing(root, _candidates(split)))
        if not found:
            raise self.not_found("csv", [*_candidates("train"), *_candidates("test")], root)
        return found

    def list_split(self, root: Path, split: str) -> Listing:
        """List a split by column names, because the column order in the file differs from its documentation."""
        table = self.find(root, f"{split} csv", _candidates(split))
        class_file = self.find(root, "class list", [f"{folder}Charades_v1_classes.txt" for folder in _FOLDERS])
        classes = _class_names(class_file)
        videos = VideoIndex(root)
        items: list[Item] = []
        missing: list[str] = []
        for row in read_rows(table, _COLUMNS):
            path = videos.find(row["id"], prefer=("Charades_v1_480", "Charades_v1"))
            if path is None:
                missing.append(f"{row['id']}.mp4")
                continue
            annotation = _annotation(row, len(classes), f"{table}, video {row['id']}")
            update = {"source": relative_name(path, root), "split": split}
            items.append(Item(key_from(row["id"]), path, annotation.model_copy(update=update)))
        return Listing(classes, items, tuple(missing))


def _candidates(split: str) -> list[str]:
    return [f"{folder}Charades_v1_{split}.csv" for folder in _FOLDERS]


def _class_names(path: Path) -> tuple[str, ...]:
    """Read lines such as `c000 Holding some clothes`; the first space is the separator."""
    names: list[str] = []
    for number, line in enumerate(read_lines(path)):
        identity, _, name = line.partition(" ")
        if identity != f"c{number:03d}":
            raise UserError(f"{path}: line {number + 1} starts with {identity!r}, expected 'c{number:03d} NAME'")
        names.append(name)
    return tuple(names)


def _annotation(row: dict[str, str], classes: int, where: str) -> Annotation:
    length = _seconds(row["length"], where) if row.get("length", "").strip() else None
    actions = [_action(entry, classes, where) for entry in row["actions"].split(";") if entry.strip()]
    clipped = [
        action if length is None else action.model_copy(update={"end": min(action.end, length)}) for action in actions
    ]
    script = row["script"].strip()
    descriptions = [text.strip() for text in row["descriptions"].split(";")]
    kept = {name: value for name, value in row.items() if name not in ("id", "script", "descriptions") and value}
    return Annotation(
        captions=tuple(dict.fromkeys(text for text in [script, *descriptions] if text)),
        labels=tuple(sorted({action.label for action in actions})),
        intervals=tuple(action for action in clipped if action.start < action.end),
        extra=kept,
    )


def _action(entry: str, classes: int, where: str) -> Interval:
    match entry.split():
        case [identity, start, end] if identity.startswith("c"):
            label = read_number(identity[1:], f"{where}: action {shown(identity)}")
            if label >= classes:
                raise UserError(f"{where}: action {identity} is not in the class list (number of classes: {classes})")
            return Interval(label=label, start=_seconds(start, where), end=_seconds(end, where))
        case _:
            raise UserError(f"{where}: action {shown(entry)}, expected the form 'c092 11.90 21.20'")


def _seconds(text: str, where: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise UserError(f"{where}: {shown(text)} is not a number of seconds")
    return seconds
