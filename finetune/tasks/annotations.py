"""Reading of the annotations of clips from shards, without their media."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from trichord.core.errors import SampleError
from trichord.finetune.config import FinetuneConfig
from trichord.pretrain.collectives import rank, world_size
from trichord.shards.reading.reader import open_shard
from trichord.shards.record import Annotation


def read_annotations(config: FinetuneConfig) -> Iterator[Annotation]:
    """Yield the annotations of usable samples in this rank's share of the shards; the stream counts the others."""
    rule = config.objective.sample_spec().label_rule
    limits = config.data.reading_limits()
    shards = [(source.root, entry) for source in config.data.open_sources() for entry in source.manifest.shards]
    for root, entry in shards[rank() :: world_size()]:
        try:
            archive = open_shard(root, entry, limits)
        except SampleError:
            continue
        with closing(archive):
            for position in range(len(archive)):
                try:
                    annotation = archive.read(position).annotation()
                    if rule is not None:
                        rule.check(annotation)
                except SampleError:
                    continue
                yield annotation
