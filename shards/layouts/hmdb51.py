"""HMDB51: 51 classes in three official folds, with file names that hold nearly every character there is."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from trichord.core.errors import UserError
from trichord.shards.layouts.listing import Item, Layout, Listing, VideoIndex, key_from, read_lines, relative_name
from trichord.shards.record import Annotation

_FOLDERS = ("testTrainMulti_7030_splits", "test_train_splits/testTrainMulti_7030_splits", "test_train_splits", ".")
_MARKS = {"0": "unused", "1": "train", "2": "test"}


class Hmdb51Layout(Layout):
    """Every class has its own list per fold; a clip marked 0 belongs to neither side of that fold."""

    name: ClassVar[str] = "hmdb51"
    expects: ClassVar[str] = """\
  ROOT/testTrainMulti_7030_splits/CLASS_test_split1.txt ... CLASS_test_split3.txt, lines 'NAME.avi 1'
  ROOT/CLASS/NAME.avi (anywhere below ROOT)"""
    fold: int = Field(default=1, ge=1, le=3)

    def splits(self, root: Path) -> tuple[str, ...]:
        """Both sides of the fold; the lists hold both."""
        self._lists(root)
        return ("train", "test")

    def list_split(self, root: Path, split: str) -> Listing:
        """List one side of the chosen fold."""
        lists = self._lists(root)
        videos = VideoIndex(root)
        items: list[Item] = []
        missing: list[str] = []
        for number, (class_name, path) in enumerate(lists.items()):
            for line in read_lines(path):
                name, _, mark = line.rpartition(" ")
                if mark not in _MARKS or not name:
                    raise UserError(f"{path}: cannot read {line!r}, expected 'NAME.avi 0|1|2'")
                if _MARKS[mark] != split:
                    continue
                found = videos.find(Path(name.strip()).stem, prefer=(class_name,))
                if found is None:
                    missing.append(f"{class_name}/{name.strip()}")
                    continue
                annotation = Annotation(labels=(number,), source=relative_name(found, root), split=split)
                items.append(Item(key_from(found.stem), found, annotation))
        return Listing(tuple(lists), items, tuple(missing))

    def _lists(self, root: Path) -> dict[str, Path]:
        """Give the list of each class, in alphabetical order of the classes."""
        ending = f"_test_split{self.fold}.txt"
        for folder in _FOLDERS:
            found = sorted((root / folder).glob(f"*{ending}"))
            if found:
                return {path.name.removesuffix(ending): path for path in found}
        raise self.not_found(f"list of fold {self.fold}", [f"{folder}/CLASS{ending}" for folder in _FOLDERS], root)


LAYOUT = Hmdb51Layout
