"""Draw a few clips of each class from a shard set for few-shot training; samples are copied bit for bit.

The drawn clips depend only on the seed and the samples' keys. With the same seed, a draw of more clips per class
contains the clips of a smaller draw.
"""

from __future__ import annotations

import hashlib
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from webdataset import TarWriter

from trichord.core.console import counted, show_figures, track
from trichord.core.errors import SampleError, UserError
from trichord.core.files import whole_file
from trichord.core.seeds import derive_seed
from trichord.shards.reading.manifest import FILE_NAME, Manifest, ShardEntry
from trichord.shards.reading.order import SampleAddress
from trichord.shards.reading.reader import ArchivePool
from trichord.shards.reading.stream_config import DataConfig, ReadingLimits, SourceConfig
from trichord.shards.record import RawSample

_SAMPLES_PER_SHARD = 64  # small, because a draw is small and the stream lanes need several shards


@dataclass(frozen=True)
class Drawn:
    """The result of a draw."""

    manifest: Manifest
    per_class: dict[int, int]  # drawn clips of each class
    without_label: int
    bad: int


@dataclass(frozen=True)
class Candidate:
    """A sample that may be drawn."""

    address: SampleAddress
    key: str
    labels: tuple[int, ...]


def draw(root: str, out: Path, per_class: int, seed: int = 0, cache: Path | None = None) -> Drawn:
    """Write a shard set with `per_class` clips of each class; a clip with several classes counts for each of them."""
    if (out / FILE_NAME).exists():
        raise UserError(f"{out} already contains a shard set. Next: choose another --out.")
    (source,) = DataConfig(sources=(SourceConfig(root=root),), batch_size=1).open_sources()
    if source.root.folder is None and cache is None:
        raise UserError(f"{root} is not a local folder, and a draw reads it twice. Next: add --cache DIR.")
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
    """Return the first clips of each class, in an order derived from the seed and the keys, with classes mixed."""
    repeated = [key for key, count in Counter(each.key for each in candidates).items() if count > 1]
    if repeated:
        raise UserError(f"key {repeated[0]!r} is shared by several samples of this set; a draw needs unique keys")
    seen: Counter[int] = Counter()
    taken: Counter[int] = Counter()
    chosen = []
    for each in sorted(candidates, key=lambda each: (derive_seed(seed, "draw", each.key), each.key)):
        if any(seen[label] < per_class for label in each.labels):
            chosen.append(each)
            taken.update(set(each.labels))
        seen.update(set(each.labels))
    if not chosen:
        raise UserError(f"no sample has a label (samples read: {len(candidates)}), so there are no classes to draw")
    return chosen, taken


def _survey(pool: ArchivePool, counts: Sequence[int]) -> Iterator[Candidate | None]:
    """Yield every sample's key and labels, or None for a sample that cannot be read."""
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


def run(arguments: Namespace) -> int:
    """Run `trichord shards draw`."""
    drawn = draw(arguments.root, arguments.out, arguments.per_class, arguments.seed, arguments.cache)
    names = drawn.manifest.classes
    classes = range(len(names)) if names else list(drawn.per_class)
    short = [number for number in classes if drawn.per_class.get(number, 0) < arguments.per_class]
    for number in short:
        name = names[number] if names else f"class {number}"
        count = drawn.per_class.get(number, 0)
        print(f"{name} has {counted(count, 'clip')}, fewer than {arguments.per_class}", file=sys.stderr)
    row = {
        "clips": drawn.manifest.samples,
        "classes": len(drawn.per_class),
        "per class": arguments.per_class,
        "short of clips": len(short),
        "without label": drawn.without_label,
        "bad": drawn.bad,
        "seed": arguments.seed,
        "shards": str(arguments.out),
    }
    show_figures(f"drawn from {arguments.root}", [row], arguments.json)
    return 0
