"""Which clip goes into which shard: a pure function of the listing and the options."""

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

_PILOT = 8  # clips that are encoded beforehand to learn what a byte of the source becomes
_FORMAT = 2  # raise it when what is written changes for the same options: older shards are then built anew


@dataclass(frozen=True)
class ShardSize:
    """How large a shard is to be, at most about; the smaller of two targets counts."""

    samples: int | None = None
    bytes: int | None = None

    @classmethod
    def of(cls, samples: int | None, bytes: int | None) -> ShardSize:
        """Take what was asked for, or else 512 clips."""
        return cls(samples or (None if bytes else 512), bytes)

    def __post_init__(self) -> None:
        for name, value in (("samples", self.samples), ("bytes", self.bytes)):
            if value is not None and value < 1:
                raise UserError(f"--{name}-per-shard {value}: expected 1 or more")


def cut(
    items: Sequence[Item], size: ShardSize, mode: Mode, preset: Preset, seed: int | None, limit: int | None
) -> list[list[Item]]:
    """Cut clips into shards of nearly equal size: mixed by a seed, or without one in the order of the listing."""
    ordered = list(items)
    if seed is not None:
        ordered.sort(key=lambda item: item.key)  # the mixture must not depend on the order of a list
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
    """Digest the options and the source files that decide a shard; versions of FFmpeg and x264 are not among them."""
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
    """Give size and time of change; a file that has gone since the listing is skipped later, by name."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_size, found.st_mtime_ns)


def _estimated_bytes(items: Sequence[Item], mode: Mode, preset: Preset) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Estimate what each clip will take: its file's size, times what the first few clips became."""
    sizes = np.array([1.0 if item.load else max(_state(item.path)[0], 1.0) for item in items])
    if mode is not Mode.ENCODE and not any(item.load for item in items):
        return sizes
    before = after = 0.0
    for item, size in zip(items[:_PILOT], sizes[:_PILOT].tolist(), strict=True):
        try:
            after += _size_anywhere(sample_members(item, mode, preset))
        except SampleError:  # it will be skipped and named when its shard is written
            continue
        before += size
    return sizes * (after / before if before else 1.0)


def _size_anywhere(members: Mapping[str, bytes]) -> float:
    """Return the size of members with sound counted by its length.

    AAC takes other bytes on another processor, and parts of a build on different nodes must plan alike.
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
