"""The assignment of clips to shards: a pure function of the listing and the options."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from trichord.core.errors import SampleError, UserError
from trichord.core.seeds import generator
from trichord.shards.building.encode import BIT_RATE_PER_CHANNEL
from trichord.shards.building.shard_file import sample_members
from trichord.shards.building.transcode import Mode, Preset
from trichord.shards.layouts.listing import Item, Layout, relative_name

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
        with av.open(io.BytesIO(data), "r") as file:
            for packet in file.demux():
                context: Any = packet.stream.codec_context
                if packet.stream.type == "video":
                    size += packet.size
                elif packet.size and context is not None:
                    size += BIT_RATE_PER_CHANNEL / 8 * context.channels * 1024 / context.sample_rate
    return size
