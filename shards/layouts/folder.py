"""Class folders: the name of a video's folder is its label."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from trichord.shards.layouts.listing import Item, Layout, Listing, key_from, relative_name, walk_videos
from trichord.shards.record import Annotation

_SPLIT_FOLDERS = ("train", "training", "val", "valid", "validation", "test", "testing")


class FolderLayout(Layout):
    """With split folders above the class folders each is a split, otherwise there is one split, `all`."""

    name: ClassVar[str] = "folder"
    expects: ClassVar[str] = """\
  ROOT/CLASS/VIDEO.mp4             or
  ROOT/train/CLASS/VIDEO.mp4, ROOT/val/CLASS/VIDEO.mp4, ..."""

    def splits(self, root: Path) -> tuple[str, ...]:
        """Name the split folders that hold class folders, else `all`."""
        found = tuple(name for name in _SPLIT_FOLDERS if _class_folders(root / name))
        if found:
            return found
        if all(folder.name in _SPLIT_FOLDERS for folder in _class_folders(root)):  # also: videos right below train/
            raise self.not_found("class folder with videos", ["CLASS/*.mp4", "train/CLASS/*.mp4"], root)
        return ("all",)

    def list_split(self, root: Path, split: str) -> Listing:
        """Number the classes over all splits, so that a label means the same in each."""
        splits = self.splits(root)
        folders = [root] if splits == ("all",) else [root / name for name in splits]
        classes = tuple(sorted({folder.name for base in folders for folder in _class_folders(base)}))
        numbers = {name: number for number, name in enumerate(classes)}
        base = root if split == "all" else root / split
        items = [
            Item(
                key=key_from(relative_name(path.with_suffix(""), base).replace("/", "__")),
                path=path,
                annotation=Annotation(
                    labels=(numbers[folder.name],),
                    source=relative_name(path, root),
                    split=None if split == "all" else split,
                ),
            )
            for folder in _class_folders(base)
            for path in walk_videos(folder)
        ]
        return Listing(classes, items)


def _class_folders(base: Path) -> list[Path]:
    """Give the folders directly under base that hold a video at any depth."""
    if not base.is_dir():
        return []
    folders = sorted(path for path in base.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [folder for folder in folders if walk_videos(folder)]


LAYOUT = FolderLayout
