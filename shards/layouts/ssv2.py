"""Something-Something v2: 174 templates of actions with objects, with the file names of 20bn or Qualcomm."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, TypeAdapter

from trichord.core.errors import UserError
from trichord.shards.layouts.listing import (
    Item,
    Layout,
    Listing,
    VideoIndex,
    first_existing,
    key_from,
    read_json,
    read_lines,
    relative_name,
)
from trichord.shards.record import Annotation, ClassNumber

_SPELLINGS = {"train": "train", "val": "validation", "test": "test", "labels": "labels"}


class _Entry(BaseModel):
    """A video in a list; those of the test have only an id."""

    id: str | int
    label: str | None = None
    template: str | None = None
    placeholders: Any = None


_ENTRIES = TypeAdapter(list[_Entry])
_CLASSES = TypeAdapter(dict[str, ClassNumber])


class Ssv2Layout(Layout):
    """Layout of SSv2. The label is the template without brackets, from labels.json; the caption is the filled template.

    Some classes differ only in left and right, so a horizontal flip changes the label; the transforms handle that.
    """

    name: ClassVar[str] = "ssv2"
    summary: ClassVar[str] = "Something-Something v2: label JSON of 20bn or Qualcomm and ID.webm"
    expects: ClassVar[str] = """\
  ROOT/something-something-v2-{train,validation,test,labels}.json          (20bn) or
  ROOT/labels/{train,validation,test,labels}.json [and test-answers.csv]   (Qualcomm)
  ROOT/20bn-something-something-v2/ID.webm (anywhere below ROOT)"""

    def splits(self, root: Path) -> tuple[str, ...]:
        """Return the splits whose JSON exists."""
        found = tuple(split for split in ("train", "val", "test") if first_existing(root, _candidates(split)))
        if not found:
            raise self.not_found("list", [*_candidates("train"), *_candidates("val"), *_candidates("test")], root)
        return found

    def list_split(self, root: Path, split: str) -> Listing:
        """List a split; test entries have an id only, and their answers were published later in a separate file."""
        numbers = self._class_numbers(root)
        listed = self.find(root, f"{split} list", _candidates(split))
        answers = _answers(root) if split == "test" else {}
        videos = VideoIndex(root)
        items: list[Item] = []
        missing: list[str] = []
        for entry in read_json(listed, _ENTRIES):
            identity = str(entry.id)
            path = videos.find(identity)
            if path is None:
                missing.append(f"{identity}.webm")
                continue
            template = entry.template or answers.get(identity)
            annotation = Annotation(
                captions=(entry.label,) if entry.label else (),
                labels=() if template is None else (_number(template, numbers, f"{listed}, id {identity}"),),
                source=relative_name(path, root),
                split=split,
                extra=_extra(entry),
            )
            items.append(Item(key_from(identity), path, annotation))
        return Listing(tuple(sorted(numbers, key=numbers.__getitem__)), items, tuple(missing))

    def _class_numbers(self, root: Path) -> dict[str, int]:
        path = self.find(root, "class list", _candidates("labels"))
        numbers = read_json(path, _CLASSES)
        if sorted(numbers.values()) != list(range(len(numbers))):
            raise UserError(f"{path}: expected the class numbers 0 to {len(numbers) - 1}")
        return numbers


def _candidates(split: str) -> list[str]:
    spelling = _SPELLINGS[split]
    folders = ("", "labels/", "annotations/")
    return [f"{folder}{prefix}{spelling}.json" for prefix in ("something-something-v2-", "") for folder in folders]


def _answers(root: Path) -> dict[str, str]:
    path = first_existing(root, ("labels/test-answers.csv", "test-answers.csv"))
    if path is None:
        return {}
    return {identity: name for identity, _, name in (line.partition(";") for line in read_lines(path))}


def _number(template: str, numbers: dict[str, int], where: str) -> int:
    name = template.replace("[", "").replace("]", "")
    if name not in numbers:
        raise UserError(f"{where}: template {template!r} is not in labels.json")
    return numbers[name]


def _extra(entry: _Entry) -> dict[str, Any]:
    found = {"template": entry.template, "placeholders": entry.placeholders}
    return {name: value for name, value in found.items() if value}
