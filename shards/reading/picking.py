"""Some samples of a shard set, evenly spread over it, for whoever wants to look at a few."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trichord.core.errors import UserError
from trichord.shards.reading.archive import open_archive
from trichord.shards.reading.manifest import Manifest
from trichord.shards.reading.roots import parse_root
from trichord.shards.record import RawSample


def pick_samples(root: str, count: int) -> Iterator[RawSample]:
    """Read as many samples, or all there are, the first of them the set's first; raises SampleError for a bad one."""
    where, listed = parse_root(root), Manifest.load(root)
    if listed.samples == 0:
        raise UserError(f"{where.text} holds no samples. Next: trichord shards verify {where.text}")
    ends = np.cumsum([entry.samples for entry in listed.shards])
    count = min(count, listed.samples)
    for number in (listed.samples * place // count for place in range(count)):
        shard = int(np.searchsorted(ends, number, side="right"))
        entry = listed.shards[shard]
        archive = open_archive(where, entry.name, size=entry.bytes, sha256=entry.sha256)
        try:
            yield archive.read(number - (int(ends[shard]) - entry.samples))
        finally:
            archive.close()
