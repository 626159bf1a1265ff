"""Reading of the sample behind a hit from its shard."""

from __future__ import annotations

from trichord.core.errors import Cause, SampleError
from trichord.finetune.retrieval.index import Hit
from trichord.shards.reading.archive import open_archive
from trichord.shards.reading.roots import parse_root
from trichord.shards.record import RawSample


def read_sample(hit: Hit) -> RawSample:
    """Read the sample of a hit; raise SampleError if its shard is missing or no longer holds it."""
    archive = open_archive(parse_root(hit.root), hit.shard)
    try:
        if hit.key not in archive.keys:
            raise SampleError(Cause.MISSING, f"{hit.shard} no longer holds {hit.key}")
        return archive.read(archive.keys.index(hit.key))
    finally:
        archive.close()
