"""The sample that a hit is of, as its shard holds it."""

from __future__ import annotations

from trichord.core.errors import Cause, SampleError
from trichord.finetune.retrieval.index import Hit
from trichord.shards.reading.archive import open_archive
from trichord.shards.reading.roots import parse_root
from trichord.shards.record import RawSample


def read_sample(hit: Hit) -> RawSample:
    """Read it; raises SampleError where its shard is there no more, or holds it no more."""
    archive = open_archive(parse_root(hit.root), hit.shard)
    try:
        if hit.key not in archive.keys:
            raise SampleError(Cause.MISSING, f"{hit.shard} holds no {hit.key} any more")
        return archive.read(archive.keys.index(hit.key))
    finally:
        archive.close()
