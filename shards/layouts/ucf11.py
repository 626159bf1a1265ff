"""UCF11, the YouTube Action data set: without an official split, so each fold leaves out one group of source videos."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from trichord.core.errors import UserError
from trichord.shards.layouts.listing import Item, Layout, Listing, first_existing, key_from, relative_name, walk_videos
from trichord.shards.record import Annotation

# The stem may differ from the class: basketball/v_shooting_24/v_shooting_24_01.mpg.
_NAME = re.compile(r"(v_.+_(\d+))_\d+")


class Ucf11Layout(Layout):
    """Layout of UCF11. Fold k tests on group k of every class and trains on the rest; the protocol averages all 25."""

    name: ClassVar[str] = "ucf11"
    summary: ClassVar[str] = "UCF11_updated_mpg/CLASS/GROUP/*.mpg, leave one group out (fold=1..25)"
    expects: ClassVar[str] = """\
  ROOT/[UCF11_updated_mpg/]CLASS/v_STEM_GG/v_STEM_GG_CC.mpg (CLASS/Annotation/ is not read)"""
    fold: int = Field(default=1, ge=1)

    def splits(self, root: Path) -> tuple[str, ...]:
        """Return train and test; raise UserError if there is no clip of the fold's group."""
        groups = sorted({number for _, _, number in self._clips(root)[0]})
        if self.fold not in groups:
            raise UserError(
                f"ucf11: no clip of group {self.fold} under {root}, so the test split of this fold would be empty. "
                f"Groups found: {', '.join(map(str, groups))}. Next: --option fold={groups[0]}"
            )
        return ("train", "test")

    def list_split(self, root: Path, split: str) -> Listing:
        """List one split of the fold."""
        clips, unnamed = self._clips(root)
        classes = tuple(sorted({path.relative_to(self._base(root)).parts[0] for path, _, _ in clips}))
        items: list[Item] = []
        for path, group, number in clips:
            if (number == self.fold) != (split == "test"):
                continue
            name = path.relative_to(self._base(root)).parts[0]
            annotation = Annotation(
                labels=(classes.index(name),), source=relative_name(path, root), group=f"{name}/{group}", split=split
            )
            items.append(Item(key_from(path.stem), path, annotation))
        return Listing(classes, items, tuple(f"{relative_name(path, root)} (no group in its name)" for path in unnamed))

    def _base(self, root: Path) -> Path:
        return first_existing(root, ("UCF11_updated_mpg", "UCF11_updated_mpeg", "action_youtube_naudio")) or root

    def _clips(self, root: Path) -> tuple[list[tuple[Path, str, int]], list[Path]]:
        """Return (path, group, number of the group) of every clip, and the files whose names contain no group."""
        base = self._base(root)
        clips: list[tuple[Path, str, int]] = []
        unnamed: list[Path] = []
        for path in walk_videos(base):
            found = _NAME.fullmatch(path.stem)
            if found and len(path.relative_to(base).parts) > 1:
                clips.append((path, found.group(1), int(found.group(2))))
            else:
                unnamed.append(path)
        if not clips:
            raise self.not_found("clip", ["UCF11_updated_mpg/CLASS/v_STEM_GG/v_STEM_GG_CC.mpg", "CLASS/..."], root)
        return clips, unnamed
