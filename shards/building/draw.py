"""Draws a few clips of each class out of a shard set, for few-shot training: samples are copied bit for bit.

Which clips are drawn depends on the seed and the samples' keys alone, and who asks for more of each class gets those
of fewer and others besides.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from webdataset import TarWriter

from trichord.core.console import track
from trichord.core.errors import SampleError, UserError
from trichord.core.files import whole_file
from trichord.core.seeds import derive_seed
from trichord.shards.reading.manifest import FILE_NAME, Manifest, ShardEntry
from trichord.shards.reading.order import SampleAddress
from trichord.shards.reading.pool import ArchivePool
from trichord.shards.reading.stream_config import DataConfig, ReadingLimits, SourceConfig
from trichord.shards.record import RawSample

_SAMPLES_PER_SHARD = 64  # few, for a draw is small and lanes want several shards


@dataclass(frozen=True)
class Drawn:
    """What came of a draw."""

    manifest: Manifest
    per_class: dict[int, int]  # clips of each class that was found
    without_label: int
    bad: int


@dataclass(frozen=True)
class Candidate:
    """A sample that may be drawn."""

    address: SampleAddress
    key: str
    labels: tuple[int, ...]


def draw(root: str, out: Path, per_class: int, seed: int = 0, cache: Path | None = None) -> Drawn:
    """Write a set of `per_class` clips of each class; a clip of several classes counts for each of them."""
    if (out / FILE_NAME).exists():
        raise UserError(f"{out} holds a shard set already; give another --out")
    (source,) = DataConfig(sources=(SourceConfig(root=root),), batch_size=1).open_sources()
    if source.root.folder is None and cache is None:
        raise UserError(f"{root} lies elsewhere, and a draw reads it twice: add --cache DIR to keep its shards")
    pool = ArchivePool((source,), ReadingLimits(cache))
    candidates, bad = [], 0
    for found in track(_survey(pool, source.counts), "reading labels", source.manifest.samples):
        if found is None:
            bad += 1
        else:
            candidates.append(found)
    chosen, counts = choose(candidates, per_class, seed)
    entries = tuple(_write(pool, chosen, out))
    pool.close()
    split = f"{source.manifest.split or 'set'}, {per_class} of each class, seed {seed}"
    manifest = source.manifest.model_copy(update={"split": split, "shards": entries})
    manifest.save(out)
    return Drawn(manifest, dict(sorted(counts.items())), sum(not each.labels for each in candidates), bad)


def choose(candidates: Sequence[Candidate], per_class: int, seed: int) -> tuple[list[Candidate], Counter[int]]:
    """Take the first of each class in an order that the seed makes of the keys; they stay in it, classes mixed."""
    twice = [key for key, count in Counter(each.key for each in candidates).items() if count > 1]
    if twice:
        raise UserError(f"key {twice[0]!r} names several samples of this set; a draw needs one key for each")
    seen: Counter[int] = Counter()
    taken: Counter[int] = Counter()
    chosen = []
    for each in sorted(candidates, key=lambda each: (derive_seed(seed, "draw", each.key), each.key)):
        if any(seen[label] < per_class for label in each.labels):
            chosen.append(each)
            taken.update(set(each.labels))
        seen.update(set(each.labels))
    if not chosen:
        raise UserError(f"none of {len(candidates)} samples has a label, so there are no classes to draw from")
    return chosen, taken


def _survey(pool: ArchivePool, counts: Sequence[int]) -> Iterator[Candidate | None]:
    """Give every sample's key and labels; None for one that cannot be read."""
    for shard, count in enumerate(counts):
        for index in range(count):
            address = SampleAddress(0, shard, index, lane=0)
            try:
                raw = pool.read(address)
                yield Candidate(address, raw.key, raw.annotation().labels)
            except SampleError:
                yield None


def _write(pool: ArchivePool, chosen: Sequence[Candidate], out: Path) -> Iterator[ShardEntry]:
    out.mkdir(parents=True, exist_ok=True)
    for number, first in enumerate(range(0, len(chosen), _SAMPLES_PER_SHARD)):
        few = chosen[first : first + _SAMPLES_PER_SHARD]
        yield _write_shard([pool.read(each.address) for each in few], out / f"{number:05d}.tar")


def _write_shard(samples: Sequence[RawSample], path: Path) -> ShardEntry:
    with (
        whole_file(path) as file,
        TarWriter(file, user="", group="", mode=0o644, mtime=0, compress=False, encoder=False) as writer,
    ):
        for raw in samples:
            writer.write({"__key__": raw.key, **raw.members})
    with path.open("rb") as written:
        digest = hashlib.file_digest(written, "sha256").hexdigest()
    return ShardEntry(name=path.name, samples=len(samples), bytes=path.stat().st_size, sha256=digest)
