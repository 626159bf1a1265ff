"""The plan of a build and its summary: what is read, how clips are assigned to shards, and what came of it.

`survey` reads the listings of a dataset's splits before anything is written. The assignment is a pure function of the
listing and the options. The checks refuse groups that are in several splits, too many missing files and too many clips
that cannot be used. The summaries are printed, returned for `--json` and saved as `build.json` beside the shards.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from trichord.core.errors import SampleError, UserError
from trichord.core.files import write_whole
from trichord.core.seeds import generator
from trichord.shards.building.encode import BIT_RATE_PER_CHANNEL
from trichord.shards.building.shard_file import Skipped, sample_members
from trichord.shards.building.transcode import SOURCE_LIMITS, Mode, Preset
from trichord.shards.decoding.demux import index_media
from trichord.shards.layouts import Layout, Listing, open_layout
from trichord.shards.layouts.listing import Item, relative_name

_PILOT_CLIPS = 8  # encoded in advance to estimate the ratio of output bytes to source bytes
_FORMAT = 2  # increase it when the output changes for the same options; older shards are then rebuilt


@dataclass(frozen=True)
class ShardSize:
    """The approximate maximum size of a shard; with two targets, the one that yields smaller shards applies."""

    samples: int | None = None
    bytes: int | None = None

    @classmethod
    def of(cls, samples: int | None, bytes: int | None) -> ShardSize:
        """Return the given targets, or 512 clips if there are none."""
        return cls(samples or (None if bytes else 512), bytes)

    def __post_init__(self) -> None:
        for name, value in (("samples", self.samples), ("bytes", self.bytes)):
            if value is not None and value < 1:
                raise UserError(f"--{name}-per-shard {value}: expected 1 or more")


def cut(
    items: Sequence[Item], size: ShardSize, mode: Mode, preset: Preset, seed: int | None, limit: int | None
) -> list[list[Item]]:
    """Divide clips into shards of nearly equal size: shuffled by the seed, or in listing order without one."""
    ordered = list(items)
    if seed is not None:
        ordered.sort(key=lambda item: item.key)  # the shuffle must not depend on the order of the listing
        ordered = [ordered[place] for place in generator(seed, "build").permutation(len(ordered))]
    ordered = ordered[:limit]
    by_samples = math.ceil(len(ordered) / size.samples) if size.samples else 1
    by_bytes, weights = 1, np.ones(len(ordered))
    if size.bytes:
        estimated = _estimated_bytes(ordered, mode, preset)
        by_bytes = math.ceil(estimated.sum() / size.bytes)
        weights = estimated if by_bytes > by_samples else weights
    shards: list[list[Item]] = [[] for _ in range(max(1, by_samples, by_bytes))]
    middles = np.cumsum(weights) - weights / 2
    places = np.minimum((middles / max(weights.sum(), 1) * len(shards)).astype(int), len(shards) - 1)
    for item, place in zip(ordered, places.tolist(), strict=True):
        shards[place].append(item)
    return [shard for shard in shards if shard]


def plan_digest(items: Sequence[Item], root: Path, layout: Layout, mode: Mode, preset: Preset) -> str:
    """Return a digest of the options and source files of a shard; versions of FFmpeg and x264 are not included."""
    plan = {
        "format": _FORMAT,
        "layout": [layout.name, layout.model_dump()],
        "mode": mode,
        "preset": preset.model_dump(),
        "items": [
            [item.key, relative_name(item.path, root), *_state(item.path), item.annotation.model_dump_json()]
            for item in items
        ],
    }
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


def _state(path: Path) -> tuple[int, int]:
    """Return size and modification time; a file deleted since the listing is skipped and named later."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_size, found.st_mtime_ns)


def _estimated_bytes(items: Sequence[Item], mode: Mode, preset: Preset) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Estimate the output bytes of each clip: its file size, scaled by the ratio measured on the first few clips."""
    sizes = np.array([1.0 if item.load else max(_state(item.path)[0], 1.0) for item in items])
    if mode is not Mode.ENCODE and not any(item.load for item in items):
        return sizes
    before = after = 0.0
    for item, size in zip(items[:_PILOT_CLIPS], sizes[:_PILOT_CLIPS].tolist(), strict=True):
        try:
            after += _size_anywhere(sample_members(item, mode, preset))
        except SampleError:  # it is skipped and named when its shard is written
            continue
        before += size
    return sizes * (after / before if before else 1.0)


def _size_anywhere(members: Mapping[str, bytes]) -> float:
    """Return the size of members, with sound counted by its duration.

    The size of AAC data depends on the processor, and all parts of a build must make the same plan on every node.
    """
    size = 0.0
    for extension, data in members.items():
        if extension != "mp4":
            size += len(data)
            continue
        index = index_media(data, SOURCE_LIMITS, SOURCE_LIMITS.start())
        if index.video is not None:
            size += index.video.byte_count
        if index.audio is not None and index.audio.sample_rate:
            size += len(index.audio) * BIT_RATE_PER_CHANNEL / 8 * index.audio.channels * 1024 / index.audio.sample_rate
    return size


REPORT = "build.json"


class SplitSummary(BaseModel):
    """The result of one split; also written as `build.json` beside its shards."""

    model_config = ConfigDict(frozen=True)
    split: str
    folder: Path
    layout: str
    options: dict[str, object]
    mode: Mode
    preset: Preset
    seed: int
    finished: bool
    planned_shards: int
    whole_shards: int = 0  # that exist, including those without a usable clip
    shards: int = 0
    reused_shards: int = 0  # that this process found complete and did not write
    samples: int = 0
    bytes: int = 0
    classes: int = 0
    missing: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    def save(self) -> None:
        """Write build.json; its content does not depend on which part of a build writes it."""
        write_whole(self.folder / REPORT, self.model_dump_json(indent=1, exclude={"reused_shards"}))


class BuildSummary(BaseModel):
    """The result of a build."""

    model_config = ConfigDict(frozen=True)
    splits: tuple[SplitSummary, ...]

    def rows(self) -> list[dict[str, object]]:
        """Return one table row per split."""
        return [
            {
                "split": each.split,
                "shards": each.shards,
                "reused": each.reused_shards,
                "samples": each.samples,
                "megabytes": round(each.bytes / 1e6, 1),
                "classes": each.classes,
                "missing": len(each.missing),
                "skipped": ", ".join(f"{cause}: {count}" for cause, count in count_causes(each.skipped).items()) or "0",
                "folder": str(each.folder),
            }
            for each in self.splits
        ]


def count_causes(skipped: Sequence[Skipped]) -> dict[str, int]:
    """Return the number of skipped clips by cause."""
    return dict(sorted(Counter(str(each.cause) for each in skipped).items()))


_MAX_NAMED = 12  # entries listed in an error message; build.json has all of them


def check_groups(listings: Mapping[str, Listing]) -> None:
    """Refuse splits that share a group: clips of one source in training and test invalidate the test."""
    sides: dict[str, set[str]] = {}
    for split, listing in listings.items():
        for item in listing.items:
            if item.annotation.group is not None:
                sides.setdefault(item.annotation.group, set()).add(split)
    shared = {group: sorted(of) for group, of in sorted(sides.items()) if len(of) > 1}
    if shared:
        count = "1 group is" if len(shared) == 1 else f"{len(shared)} groups are"
        named = "\n  ".join(f"{group}: {', '.join(of)}" for group, of in list(shared.items())[:_MAX_NAMED])
        raise UserError(
            f"{count} in more than one split:\n  {named}\n"
            "Clips of one group come from one source, so every group must be in one split only. "
            "Next: correct the column or list that assigns splits."
        )


def check_missing(listing: Listing, split: str, root: Path, max_missing_fraction: float) -> None:
    """Refuse a split with too many missing files."""
    listed = len(listing.items) + len(listing.missing)
    if listed == 0:
        raise UserError(f"The split {split!r} under {root} has no clips.")
    if len(listing.missing) > max_missing_fraction * listed or not listing.items:
        named = "\n  ".join(listing.missing[:_MAX_NAMED])
        share = len(listing.missing) / listed
        raise UserError(
            f"Missing under {root}: {len(listing.missing)} of the {listed} files listed for split {split!r} "
            f"({share:.1%}):\n  {named}\nThe limit is {max_missing_fraction:.1%}. "
            f"Next: add the files, or accept the loss with --max-missing-fraction {min(1.0, share + 0.01):.2f}"
        )


def check_bad(skipped: Sequence[Skipped], clips: int, max_bad_fraction: float, split: str) -> None:
    """Raise UserError as soon as it is certain that too many clips of a split cannot be used."""
    if len(skipped) > max_bad_fraction * clips:
        named = "\n  ".join(f"{each.key} ({each.source}): {each.cause}: {each.detail}" for each in skipped[:_MAX_NAMED])
        causes = ", ".join(f"{cause}: {count}" for cause, count in count_causes(skipped).items())
        raise UserError(
            f"{len(skipped)} of the {clips} clips of split {split!r} cannot be used ({causes}); the limit is "
            f"{max_bad_fraction:.1%}:\n  {named}\n"
            "Next: replace these files, or accept the loss with a larger --max-bad-fraction."
        )


class Survey(NamedTuple):
    """The layout of a dataset and its listings."""

    layout: Layout
    listings: dict[str, Listing]  # of the chosen splits, in the given order


def survey(
    layout: str,
    root: Path,
    options: Mapping[str, object] | None = None,
    splits: Sequence[str] | None = None,
    max_missing_fraction: float = 0.05,
) -> Survey:
    """Read and check the listings. Groups are compared over all splits, chosen or not."""
    opened = open_layout(layout, options)
    if not root.exists():
        raise UserError(f"--root {root} does not exist. The layout {layout} expects:\n{opened.expects.rstrip()}")
    known = opened.splits(root)
    listings = {split: opened.read(root, split) for split in known}
    chosen = tuple(splits or known)
    for split in chosen:
        if split not in listings:
            raise UserError(f"{layout}: {root} has no split {split!r}. Next: --splits with some of: {', '.join(known)}")
        check_missing(listings[split], split, root, max_missing_fraction)
    check_groups(listings)
    return Survey(opened, {split: listings[split] for split in chosen})
