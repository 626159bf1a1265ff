"""HMDB51: 51 classes in three official folds; file names contain many special characters."""

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
    """Layout of HMDB51. Every class has one list per fold; a clip marked 0 is in neither split of that fold."""

    name: ClassVar[str] = "hmdb51"
    summary: ClassVar[str] = "CLASS/*.avi and testTrainMulti_7030_splits (fold=1|2|3)"
    expects: ClassVar[str] = """\
  ROOT/testTrainMulti_7030_splits/CLASS_test_split1.txt ... CLASS_test_split3.txt, lines 'NAME.avi 1'
  ROOT/CLASS/NAME.avi (anywhere below ROOT)"""
    fold: int = Field(default=1, ge=1, le=3)

    def splits(self, root: Path) -> tuple[str, ...]:
        """Return train and test; each list contains both."""
        self._lists(root)
        return ("train", "test")

    def list_split(self, root: Path, split: str) -> Listing:
        """List one split of the chosen fold."""
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
        """Return the list file of each class, in alphabetical order of the classes."""
        ending = f"_test_split{self.fold}.txt"
        for folder in _FOLDERS:
            found = sorted((root / folder).glob(f"*{ending}"))
            if found:
                return {path.name.removesuffix(ending): path for path in found}
        raise self.not_found(f"list of fold {self.fold}", [f"{folder}/CLASS{ending}" for folder in _FOLDERS], root)
