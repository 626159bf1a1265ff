"""MSR-VTT: 10,000 clips with 20 captions each, in the full split and the 1k-A retrieval protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from trichord.core.errors import UserError, shown
from trichord.shards.layouts.listing import (
    Item,
    Layout,
    Listing,
    VideoIndex,
    first_existing,
    key_from,
    read_json,
    read_lines,
    read_number,
    read_rows,
    relative_name,
)
from trichord.shards.record import Annotation

_FOLDERS = ("", "annotation/", "annotations/", "msrvtt_data/")
_INFO = ("train_val_videodatainfo.json", "train_val_annotation/train_val_videodatainfo.json")
_TEST_INFO = ("test_videodatainfo.json", "test_annotation/test_videodatainfo.json")
_ONE_FILE = ("MSRVTT_data.json",)
_OFFICIAL = {"train": "train", "validate": "val", "val": "val", "test": "test"}


class _Video(BaseModel):
    """A video of the annotation, with what else is known about it."""

    model_config = ConfigDict(extra="allow")
    video_id: str
    split: str = "test"
    category: Annotated[int, Field(ge=0, lt=1000)] | None = None


class _Sentence(BaseModel):
    """A caption of a video."""

    video_id: str
    caption: str


class _Document(BaseModel):
    videos: list[_Video]
    sentences: list[_Sentence]


_DOCUMENT = TypeAdapter(_Document)


class MsrvttLayout(Layout):
    """Layout of MSR-VTT. `full` has the challenge's splits; `1k-A` tests on the 1,000 pairs of the JSFusion list.

    1k-A trains on 9k (every video outside its test split) or 7k (the official train and val). The train list is read if
    it exists, and otherwise derived from that rule. The times in the JSON refer to the original YouTube videos: the
    released files are already cut.
    """

    name: ClassVar[str] = "msrvtt"
    summary: ClassVar[str] = "MSR-VTT: videodatainfo JSON (protocol=full|1k-A, train=9k|7k)"
    expects: ClassVar[str] = """\
  ROOT/train_val_videodatainfo.json and test_videodatainfo.json, or MSRVTT_data.json; category.txt is optional
  protocol=1k-A: also MSRVTT_JSFUSION_test.csv (and MSRVTT_train.9k.csv or MSRVTT_train.7k.csv)
  ROOT/.../video123.mp4 (anywhere below ROOT)"""
    protocol: Literal["full", "1k-A"] = "full"
    train: Literal["9k", "7k"] = "9k"

    def splits(self, root: Path) -> tuple[str, ...]:
        """Return the splits of the protocol that are in the annotation."""
        if self.protocol == "1k-A":
            return ("train", "test")
        present = {_split_of(video) for video in self._information(root)[0]}
        return tuple(split for split in ("train", "val", "test") if split in present)

    def list_split(self, root: Path, split: str) -> Listing:
        """List a split with all captions, or for the test of 1k-A only with the caption that its list pairs."""
        described, captions = self._information(root)
        paired = self._test_pairs(root) if self.protocol == "1k-A" else {}
        chosen = self._chosen(root, split, described, paired)
        classes = _categories(root, described)
        videos = VideoIndex(root)
        items: list[Item] = []
        missing: list[str] = []
        for video in described:
            identity = video.video_id
            if identity not in chosen:
                continue
            path = videos.find(identity)
            if path is None:
                missing.append(f"{identity}.mp4")
                continue
            known = video.model_extra or {}
            texts = (paired[identity],) if identity in paired and split == "test" else tuple(captions.get(identity, []))
            annotation = Annotation(
                captions=tuple(dict.fromkeys(texts)),
                labels=() if video.category is None else (video.category,),
                source=relative_name(path, root),
                split=split,
                extra={name: known[name] for name in ("url", "start time", "end time") if name in known},
            )
            items.append(Item(key_from(identity), path, annotation))
        absent = chosen - {video.video_id for video in described}
        return Listing(classes, items, (*missing, *(f"{name} (not in the JSON)" for name in absent)))

    def _information(self, root: Path) -> tuple[list[_Video], dict[str, list[str]]]:
        """Read the descriptions of the videos, and the captions by video."""
        one_file = first_existing(root, _in_folders(_ONE_FILE))
        if one_file is not None:
            paths = [one_file]
        else:
            paths = [self.find(root, "annotation", _in_folders((*_INFO, *_ONE_FILE)))]
            test = first_existing(root, _in_folders(_TEST_INFO))
            paths += [] if test is None else [test]
        documents = [read_json(path, _DOCUMENT) for path in paths]
        captions: dict[str, list[str]] = {}
        for sentence in (sentence for document in documents for sentence in document.sentences):
            captions.setdefault(sentence.video_id, []).append(sentence.caption.strip())
        return [video for document in documents for video in document.videos], captions

    def _test_pairs(self, root: Path) -> dict[str, str]:
        path = self.find(root, "test list of 1k-A", _in_folders(("MSRVTT_JSFUSION_test.csv",)))
        return {row["video_id"]: row["sentence"].strip() for row in read_rows(path, ["video_id", "sentence"])}

    def _chosen(self, root: Path, split: str, described: list[_Video], paired: dict[str, str]) -> set[str]:
        if self.protocol == "full":
            return {video.video_id for video in described if _split_of(video) == split}
        if split == "test":
            return set(paired)
        listed = first_existing(root, _in_folders((f"MSRVTT_train.{self.train}.csv",)))
        if listed is not None:
            return {row["video_id"] for row in read_rows(listed, ["video_id"])}
        allowed = ("train", "val") if self.train == "7k" else ("train", "val", "test")
        return {video.video_id for video in described if _split_of(video) in allowed} - set(paired)


def _in_folders(names: tuple[str, ...]) -> list[str]:
    return [f"{folder}{name}" for name in names for folder in _FOLDERS]


def _split_of(video: _Video) -> str:
    if video.split not in _OFFICIAL:
        found = shown(video.split)
        raise UserError(f"msrvtt: {video.video_id} has the split {found}, expected train, validate or test")
    return _OFFICIAL[video.split]


def _categories(root: Path, described: list[_Video]) -> tuple[str, ...]:
    """Read lines such as `music<TAB>0`; without the file, the names of the 20 categories are their numbers."""
    path = first_existing(root, _in_folders(("category.txt",)))
    if path is None:
        count = max((video.category for video in described if video.category is not None), default=-1) + 1
        return tuple(f"category {number}" for number in range(count))
    pairs = [line.rpartition("\t" if "\t" in line else " ") for line in read_lines(path)]
    numbered = [(read_number(number, str(path)), name.strip()) for name, _, number in pairs]
    return tuple(name for _, name in sorted(numbered))
