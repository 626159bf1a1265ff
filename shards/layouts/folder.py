"""Class folders: the label of a video is the name of its class folder."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from trichord.shards.layouts.listing import Item, Layout, Listing, key_from, relative_name, walk_videos
from trichord.shards.record import Annotation

_SPLIT_FOLDERS = ("train", "training", "val", "valid", "validation", "test", "testing")


class FolderLayout(Layout):
    """Layout of class folders. Each split folder above them is a split; without any there is one split, `all`."""

    name: ClassVar[str] = "folder"
    summary: ClassVar[str] = "class folders: ROOT/[train|val|test/]CLASS/VIDEO"
    expects: ClassVar[str] = """\
  ROOT/CLASS/VIDEO.mp4             or
  ROOT/train/CLASS/VIDEO.mp4, ROOT/val/CLASS/VIDEO.mp4, ..."""

    def splits(self, root: Path) -> tuple[str, ...]:
        """Return the split folders that contain class folders, or `all` if there are none."""
        found = tuple(name for name in _SPLIT_FOLDERS if _class_folders(root / name))
        if found:
            return found
        if all(folder.name in _SPLIT_FOLDERS for folder in _class_folders(root)):  # or videos directly in train/
            raise self.not_found("class folder with videos", ["CLASS/*.mp4", "train/CLASS/*.mp4"], root)
        return ("all",)

    def list_split(self, root: Path, split: str) -> Listing:
        """List a split; classes are numbered over all splits, so that a label has the same meaning in each."""
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
    """Return the folders directly in `base` that contain a video at any depth."""
    if not base.is_dir():
        return []
    folders = sorted(path for path in base.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [folder for folder in folders if walk_videos(folder)]
