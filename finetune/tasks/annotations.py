"""Reading of the annotations of clips from shards, without their media."""

from __future__ import annotations

from collections.abc import Iterator

from trichord.core.errors import SampleError
from trichord.finetune.config import FinetuneConfig
from trichord.pretrain.collectives import rank, world_size
from trichord.shards.reading.archive import open_archive
from trichord.shards.record import Annotation


def read_annotations(config: FinetuneConfig) -> Iterator[tuple[str, Annotation]]:
    """Yield a description of each clip and its annotation, from this rank's share of the shards."""
    limits = config.data.reading_limits()
    shards = [(source.root, entry) for source in config.data.open_sources() for entry in source.manifest.shards]
    for root, entry in shards[rank() :: world_size()]:
        archive = open_archive(
            root, entry.name, cache_dir=limits.cache_dir, size=entry.bytes, sha256=entry.sha256, policy=limits.policy
        )
        for position, key in enumerate(archive.keys):
            try:
                annotation = archive.read(position).annotation()
            except SampleError:  # skipped here; the stream counts and reports it
                continue
            yield f"sample {key} of {entry.name}", annotation
        archive.close()
