"""UCF101: 101 classes in three official folds, each of which keeps the clips of one source video together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from trichord.core.errors import UserError
from trichord.shards.layouts.listing import (
    Item,
    Layout,
    Listing,
    VideoIndex,
    key_from,
    read_lines,
    read_number,
    relative_name,
)
from trichord.shards.record import Annotation

_FOLDERS = ("ucfTrainTestlist/", "", "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist/")


class Ucf101Layout(Layout):
    """Layout of UCF101. Test lists have no class numbers, so the folder name determines the class, ignoring case.

    Files of the class HandstandPushups are called v_HandStandPushups_*, and copies of the dataset differ in the case
    of both. Names are therefore matched exactly, or else ignoring case.
    """

    name: ClassVar[str] = "ucf101"
    summary: ClassVar[str] = "UCF-101/CLASS/*.avi and ucfTrainTestlist (fold=1|2|3)"
    expects: ClassVar[str] = """\
  ROOT/ucfTrainTestlist/classInd.txt, trainlist01.txt ... testlist03.txt
  ROOT/UCF-101/CLASS/v_CLASS_gGG_cCC.avi (anywhere below ROOT)"""
    fold: int = Field(default=1, ge=1, le=3)

    def splits(self, root: Path) -> tuple[str, ...]:
        """Return train and test; raise UserError if the list of either is missing."""
        for split in ("train", "test"):
            self.find(root, f"{split} list", self._candidates(f"{split}list{self.fold:02d}.txt"))
        return ("train", "test")

    def list_split(self, root: Path, split: str) -> Listing:
        """List a split of the chosen fold."""
        classes = self._class_names(root)
        numbers = {name.casefold(): number for number, name in enumerate(classes)}
        videos = VideoIndex(root)
        listed = self.find(root, f"{split} list", self._candidates(f"{split}list{self.fold:02d}.txt"))
        items: list[Item] = []
        missing: list[str] = []
        for line in read_lines(listed):
            name = line.split()[0]
            folder = Path(name).parent.name
            if folder.casefold() not in numbers:
                raise UserError(f"{listed}: the class of {line!r} is not in classInd.txt")
            path = videos.find(Path(name).stem, prefer=(folder,))
            if path is None:
                missing.append(name)
                continue
            annotation = Annotation(
                labels=(numbers[folder.casefold()],),
                source=relative_name(path, root),
                group=_group(Path(name).stem),
                split=split,
            )
            items.append(Item(key_from(Path(name).stem), path, annotation))
        return Listing(classes, items, tuple(missing))

    def _candidates(self, name: str) -> list[str]:
        return [f"{folder}{name}" for folder in _FOLDERS]

    def _class_names(self, root: Path) -> tuple[str, ...]:
        """Read lines such as `1 ApplyEyeMakeup`; these numbers start at 1, labels at 0."""
        path = self.find(root, "class list", self._candidates("classInd.txt"))
        numbered: dict[int, str] = {}
        for line in read_lines(path):
            number, _, name = line.partition(" ")
            if not number.isdecimal() or not name:
                raise UserError(f"{path}: cannot read {line!r}, expected the form '1 ApplyEyeMakeup'")
            numbered[read_number(number, str(path))] = name.strip()
        if sorted(numbered) != list(range(1, len(numbered) + 1)):
            raise UserError(f"{path}: expected the class numbers 1 to {len(numbered)}")
        return tuple(numbered[number] for number in sorted(numbered))


def _group(stem: str) -> str | None:
    """Return the group of clips cut from the same video: `v_archery_g08` for `v_Archery_g08_c01`."""
    found = re.fullmatch(r"(.+_g\d+)_c\d+", stem)
    return found.group(1).casefold() if found else None
