"""The finite stream for evaluation: every sample exactly once, equally many steps on every rank, padding marked.

A batch consists of consecutive samples, the last one is padded, and each batch is read whole by one rank. So the
composition and the shape of batches do not depend on the number of ranks and workers. This matters because kernels may
round a sample differently in another batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from trichord.core.errors import SampleError, UserError
from trichord.shards.decoding.decoders import keep_freed_memory
from trichord.shards.reading.batch import (
    BadSample,
    Batch,
    Example,
    Named,
    SampleTransform,
    Stacker,
    blank_like,
    collate,
    with_as_many_views,
)
from trichord.shards.reading.order import SampleAddress
from trichord.shards.reading.reader import ArchivePool, ShardId, transform_or_name
from trichord.shards.reading.stream import BatchStream, Failure, PartReceiver, stacker_of, tally_of
from trichord.shards.reading.stream_config import ShardSource, StreamConfig

_TRIES_FOR_A_SHAPE = 64


class SampleIndex:
    """Index of all samples of all sources, numbered in the order of the manifests."""

    def __init__(self, sources: tuple[ShardSource, ...]) -> None:
        self._shards = [
            ShardId(number, shard) for number, source in enumerate(sources) for shard in range(len(source.counts))
        ]
        counts = [count for source in sources for count in source.counts]
        self._ends = np.cumsum(np.asarray(counts, dtype=np.int64))
        self.total = sum(counts)

    def address(self, number: int) -> SampleAddress:
        """Return the address of the sample with this number."""
        place = int(np.searchsorted(self._ends, number, side="right"))
        before = int(self._ends[place - 1]) if place else 0
        return SampleAddress(*self._shards[place], number - before, lane=0)

    def first_of_next_shard(self, number: int) -> int:
        """Return the number of the first sample after the shard that contains this one."""
        return int(self._ends[np.searchsorted(self._ends, number, side="right")])


class SampleIndexDataset(IterableDataset[Batch | Failure]):
    """The data set of one worker: a contiguous range of batches, so that few workers open the same shard."""

    def __init__(
        self,
        config: StreamConfig,
        sources: tuple[ShardSource, ...],
        transform: SampleTransform,
        rank: int,
        world_size: int,
    ) -> None:
        self._config, self._sources, self._transform = config, sources, transform
        self._rank, self._readers = rank, world_size * max(config.workers, 1)

    def __iter__(self) -> Iterator[Batch | Failure]:
        worker: Any = get_worker_info()
        if worker:
            keep_freed_memory()
        stack = stacker_of(worker, self._config)
        place, workers = (worker.id if worker else 0), max(self._config.workers, 1)
        reader = self._rank * workers + place
        sample_index, size = SampleIndex(self._sources), self._config.batch_size
        turns = -(-sample_index.total // (size * self._readers))
        pool = ArchivePool(self._sources, self._config.reading_limits())
        end = min((reader + 1) * turns * size, sample_index.total)
        part_reader = _PartReader(sample_index, pool, self._transform, self._config.seed, end)
        try:
            for turn in range(turns):
                start = (reader * turns + turn) * size
                step = turn * workers + place  # batches are taken from the workers in turn
                yield part_reader.part(step, range(start, min(start + size, end)), size, stack)
        except UserError as error:
            yield Failure(str(error))
        finally:
            pool.close()


class _PartReader:
    """Reader of samples by number; unusable samples are reported and replaced by padding."""

    def __init__(
        self, sample_index: SampleIndex, pool: ArchivePool, transform: SampleTransform, seed: int, end: int
    ) -> None:
        self._index, self._pool, self._transform, self._seed, self._end = sample_index, pool, transform, seed, end
        self._blank: Example | None = None
        self._current: ShardId | None = None

    def part(self, step: int, numbers: range, size: int, stack: Stacker) -> Batch:
        bad: list[BadSample] = []
        read = [self._read(number, bad) for number in numbers]
        blank = self._find_blank(bad)
        named = [
            found if isinstance(found, Named) else Named(blank, found.key, found.shard, source, number, valid=False)
            for number, found in zip(numbers, read, strict=True)
            for source in (self._index.address(number).source,)
        ]
        named += [Named(blank, "", "", source=0, valid=False)] * (size - len(named))
        left_out, surplus = self._pool.take_findings()
        # The number of sliding windows depends on the length of the video.
        return collate(with_as_many_views(named), step, bad, left_out, surplus, stack)

    def _read(self, number: int, bad: list[BadSample]) -> Named | BadSample:
        address = self._index.address(number)
        self._follow(ShardId(address.source, address.shard), number)
        try:
            raw = self._pool.read(address)
            # The seed has no step or rank, so a sample is transformed alike however the work is distributed.
            example = transform_or_name(self._transform, raw, self._seed, "evaluate")
        except SampleError as error:
            bad.append(BadSample(*self._pool.describe(address), error.cause, error.detail))
            return bad[-1]
        if self._blank is None:
            self._blank = blank_like(example)
        return Named(example, raw.key, raw.shard, address.source, number)

    def _follow(self, shard: ShardId, number: int) -> None:
        """On entering a shard, release the previous one and start to fetch the next."""
        if shard == self._current:
            return
        self._current = shard
        wanted = [shard]
        next_number = self._index.first_of_next_shard(number)
        if next_number < self._end:
            following = self._index.address(next_number)
            wanted.append(ShardId(following.source, following.shard))
        self._pool.keep(set(wanted))
        self._pool.expect(wanted)

    def _find_blank(self, bad: list[BadSample]) -> Example:
        """Return padding of the shapes of the first good sample, which may lie outside this part."""
        for number in range(min(self._index.total, _TRIES_FOR_A_SHAPE)):
            if self._blank is not None:
                return self._blank
            self._read(number, [])
        if self._blank is None:
            seen = "\n".join(f"  {each.shard} {each.key}: {each.cause}: {each.detail}" for each in bad[:20])
            raise UserError(
                f"none of the first {_TRIES_FOR_A_SHAPE} samples can be used:\n{seen}\n"
                "Check the whole set with: trichord shards verify"
            )
        return self._blank


def evaluation_batches(
    config: StreamConfig, transform: SampleTransform, rank: int = 0, world_size: int = 1
) -> BatchStream:
    """Read every sample of the sources once, in equally many batches on every rank; weights and lanes are ignored.

    `batch_size` is per rank. `valid` is False for padding and for bad samples.
    """
    sources = config.open_sources()
    if not any(source.manifest.samples for source in sources):
        raise UserError(f"nothing to evaluate: {[each.root for each in config.sources]} have no samples")
    dataset = SampleIndexDataset(config, sources, transform, rank, world_size)
    return BatchStream(PartReceiver(dataset, config, rank, parts_per_batch=1), tally_of(config))
