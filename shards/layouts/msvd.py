"""MSVD (YouTube2Text): 1,970 short clips with about 40 English captions each."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from trichord.core.errors import UserError
from trichord.shards.layouts.listing import (
    Item,
    Layout,
    Listing,
    VideoIndex,
    first_existing,
    key_from,
    read_lines,
    read_number,
    relative_name,
)
from trichord.shards.record import Annotation

_FOLDERS = ("", "msvd_data/", "annotations/")
# vid1-1200, vid1201-1300 and vid1301-1970 of youtube_mapping.txt, the split of the captioning literature.
_LAST_NUMBER = {"train": 1200, "val": 1300, "test": 1970}


class MsvdLayout(Layout):
    """Layout of MSVD. Clips are named YOUTUBEID_START_END; ids can contain '_' and '-', so names are split at the end.

    Splits are defined by train_list.txt, val_list.txt and test_list.txt, or else by the numbers in youtube_mapping.txt.
    """

    name: ClassVar[str] = "msvd"
    summary: ClassVar[str] = "MSVD: YouTubeClips/*.avi, AllVideoDescriptions.txt and split lists or youtube_mapping.txt"
    expects: ClassVar[str] = """\
  ROOT/AllVideoDescriptions.txt, lines 'CLIP CAPTION'
  ROOT/train_list.txt, val_list.txt, test_list.txt (clip names or vidN), or ROOT/youtube_mapping.txt ('CLIP vidN')
  ROOT/YouTubeClips/CLIP.avi (anywhere below ROOT)"""

    def splits(self, root: Path) -> tuple[str, ...]:
        """Return the splits that have a list, or all three if there is only the mapping."""
        listed = tuple(split for split in _LAST_NUMBER if first_existing(root, _in_folders(f"{split}_list.txt")))
        if listed:
            return listed
        self.find(root, "split", [*_in_folders("train_list.txt"), *_in_folders("youtube_mapping.txt")])
        return tuple(_LAST_NUMBER)

    def list_split(self, root: Path, split: str) -> Listing:
        """List a split with all captions of each clip."""
        captions = _captions(self.find(root, "captions", _in_folders("AllVideoDescriptions.txt")))
        videos = VideoIndex(root)
        items: list[Item] = []
        missing: list[str] = []
        for clip in self._clips(root, split):
            path = videos.find(clip)
            if path is None:
                missing.append(f"{clip}.avi")
                continue
            identity, start, end = [*clip.rsplit("_", 2), "", ""][:3]
            annotation = Annotation(
                captions=tuple(captions.get(clip, ())),
                source=relative_name(path, root),
                split=split,
                extra={"youtube_id": identity, "time_start": start, "time_end": end},
            )
            items.append(Item(key_from(clip), path, annotation))
        return Listing((), items, tuple(missing))

    def _clips(self, root: Path, split: str) -> list[str]:
        mapping = first_existing(root, _in_folders("youtube_mapping.txt"))
        by_number = {} if mapping is None else _by_number(mapping)
        listed = first_existing(root, _in_folders(f"{split}_list.txt"))
        if listed is None:
            above = {"train": 0, "val": _LAST_NUMBER["train"], "test": _LAST_NUMBER["val"]}[split]
            return [clip for number, clip in sorted(by_number.items()) if above < number <= _LAST_NUMBER[split]]
        names = [name.removesuffix(".avi") for name in read_lines(listed)]
        numbers = [
            read_number(name[3:], str(listed)) if name.startswith("vid") and name[3:].isdecimal() else None
            for name in names
        ]
        unknown = [name for name, number in zip(names, numbers, strict=True) if number and number not in by_number]
        if unknown:
            raise UserError(f"{listed}: {unknown[0]} is not in youtube_mapping.txt, which maps it to a clip")
        return [by_number[number] if number else name for name, number in zip(names, numbers, strict=True)]


def _in_folders(name: str) -> list[str]:
    return [f"{folder}{name}" for folder in _FOLDERS]


def _captions(path: Path) -> dict[str, list[str]]:
    """Read lines 'CLIP CAPTION'; comments start with '#', and the first space is the separator."""
    captions: dict[str, list[str]] = {}
    for line in read_lines(path):
        clip, _, caption = line.partition(" ")
        if not line.startswith("#") and caption.strip():
            captions.setdefault(clip, []).append(caption.strip())
    return captions


def _by_number(path: Path) -> dict[int, str]:
    numbered: dict[int, str] = {}
    for line in read_lines(path):
        clip, _, name = line.rpartition(" ")
        if not clip or not name.startswith("vid") or not name[3:].isdecimal():
            raise UserError(f"{path}: cannot read {line!r}, expected 'CLIP vidN'")
        numbered[read_number(name[3:], str(path))] = clip.strip()
    return numbered
