"""Reader of some stream lanes: their part of a step's batch, with substitutes for samples that cannot be used.

It reads samples by address from a pool of open archives: each is opened once, threads fetch remote ones ahead, failures
are remembered.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from trichord.core.errors import SampleError, UserError
from trichord.core.seeds import generator
from trichord.shards.reading.archive import Archive, open_archive
from trichord.shards.reading.batch import BadSample, Batch, Example, Named, SampleTransform, Stacker, collate
from trichord.shards.reading.manifest import ShardEntry
from trichord.shards.reading.order import Block, Order, SampleAddress, Slot
from trichord.shards.reading.root import Root
from trichord.shards.reading.stream_config import ReadingLimits, ShardSource
from trichord.shards.record import RawSample

_OPEN_FILES = 256  # the limit of a process is often 1024
_FETCHING_THREADS = 4


def open_shard(root: Root, entry: ShardEntry, limits: ReadingLimits) -> Archive:
    """Open a shard as its manifest describes it; raise SampleError if it cannot be read."""
    return open_archive(
        root,
        entry.name,
        cache_dir=limits.cache_dir,
        size=entry.bytes,
        sha256=entry.sha256,
        max_bytes=limits.max_bytes,
        policy=limits.policy,
    )


class ShardId(NamedTuple):
    """A shard, by the numbers of its source and of its place in the source's manifest."""

    source: int
    shard: int


class ArchivePool:
    """Reader of samples by address; not shared between processes."""

    def __init__(self, sources: Sequence[ShardSource], limits: ReadingLimits) -> None:
        self._sources = sources
        self._limits = limits
        self._archives: dict[ShardId, Archive | SampleError] = {}
        self._in_transfer: dict[ShardId, Future[Archive]] = {}
        self._recently_read: OrderedDict[ShardId, Archive] = OrderedDict()
        self._threads: ThreadPoolExecutor | None = None
        self._left_out: list[BadSample] = []
        self._surplus = 0

    def read(self, address: SampleAddress) -> RawSample:
        """Read a sample, or raise SampleError."""
        shard = ShardId(address.source, address.shard)
        archive = self._open(shard)
        self._recently_read[shard] = archive
        self._recently_read.move_to_end(shard)
        if len(self._recently_read) > _OPEN_FILES:
            self._recently_read.popitem(last=False)[1].rest()
        return archive.read(address.index)

    def describe(self, address: SampleAddress) -> tuple[str, str]:
        """Return the names of the shard and the key at an address, as far as they are known."""
        archive = self._archives.get(ShardId(address.source, address.shard))
        name = self._sources[address.source].manifest.shards[address.shard].name
        if isinstance(archive, Archive) and address.index < len(archive):
            return name, archive.keys[address.index]
        return name, f"(sample {address.index})"

    def expect(self, shards: Iterable[ShardId]) -> None:
        """Start to fetch those of these shards that are remote."""
        for shard in shards:
            is_remote = self._sources[shard.source].root.folder is None
            if is_remote and shard not in self._archives and shard not in self._in_transfer:
                if self._threads is None:
                    self._threads = ThreadPoolExecutor(_FETCHING_THREADS, thread_name_prefix="fetch")
                self._in_transfer[shard] = self._threads.submit(self._fetch, shard)

    def keep(self, wanted: set[ShardId]) -> None:
        """Close all archives except these."""
        for shard in [shard for shard in self._archives if shard not in wanted]:
            archive = self._archives.pop(shard)
            self._recently_read.pop(shard, None)
            if isinstance(archive, Archive):
                archive.close()
        for shard in [shard for shard in self._in_transfer if shard not in wanted]:
            transfer = self._in_transfer.pop(shard)
            if not transfer.cancel():
                transfer.add_done_callback(_close_result)

    def take_findings(self) -> tuple[list[BadSample], int]:
        """Return the members left out and the number of surplus samples of archives opened since the last call."""
        news = (self._left_out, self._surplus)
        self._left_out, self._surplus = [], 0
        return news

    def close(self) -> None:
        """Close everything."""
        self.keep(set())
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _open(self, shard: ShardId) -> Archive:
        found = self._archives.get(shard)
        if found is None:
            transfer = self._in_transfer.pop(shard, None)
            try:
                found = self._fetch(shard) if transfer is None else transfer.result()
                self._record_findings(shard, found)
            except SampleError as error:
                found = SampleError(error.cause, error.detail)  # without the traceback, which would hold memory
            self._archives[shard] = found
        if isinstance(found, SampleError):
            raise SampleError(found.cause, found.detail)
        return found

    def _fetch(self, shard: ShardId) -> Archive:
        source = self._sources[shard.source]
        entry = source.manifest.shards[shard.shard]
        return open_shard(source.root, entry, self._limits)

    def _record_findings(self, shard: ShardId, archive: Archive) -> None:
        for problem in archive.problems:
            self._left_out.append(BadSample(archive.name, problem.name, problem.cause, problem.detail))
        listed = self._sources[shard.source].manifest.shards[shard.shard].samples
        self._surplus += max(len(archive) - listed, 0)


def _close_result(transfer: Future[Archive]) -> None:
    if not transfer.cancelled() and transfer.exception() is None:
        transfer.result().close()


_TRIES_IN_A_BLOCK = 16
_BLOCKS_TRIED = 4  # a block may consist of one shard, which may be lost

Place = tuple[int, tuple[int, int], int]  # source, block, position


class LaneReader:
    """Reader of the part of a batch that belongs to some lanes; the result depends only on the step and the data."""

    def __init__(
        self,
        order: Order,
        pool: ArchivePool,
        transform: SampleTransform,
        seed: int,
        lanes: Sequence[int],
    ) -> None:
        self._order, self._pool, self._transform, self._seed, self._lanes = order, pool, transform, seed, lanes
        self._wanted: dict[tuple[int, int], tuple[tuple[int, int], set[ShardId]]] = {}

    def part(self, step: int, stack: Stacker) -> Batch:
        """Read these lanes' samples of a step."""
        bad: list[BadSample] = []
        named: list[Named] = []
        lane_slots = [self._order.lane_slots(step, lane) for lane in self._lanes]
        self._follow([slot for slots in lane_slots for slot in slots])
        for slots in lane_slots:
            taken = {(slot.block.source, slot.block.place, slot.position) for slot in slots}
            named.extend(self._fill(slot, step, taken, bad) for slot in slots)
        left_out, surplus = self._pool.take_findings()
        return collate(named, step, bad, left_out, surplus, stack)

    def _fill(self, slot: Slot, step: int, taken: set[Place], bad: list[BadSample]) -> Named:
        """Read the slot's own sample, or else the first usable substitute.

        `taken` has what this lane contributes to the batch, so that no substitute repeats a sample without need.
        """
        own = slot.block.address(slot.position)
        try:
            return self._read(own, step)
        except SampleError as error:
            bad.append(BadSample(*self._pool.describe(own), error.cause, error.detail))
        failures = [bad[-1]]
        for block, position in self._substitutes(slot, taken):
            address = block.address(position)
            try:
                named = self._read(address, step)
            except SampleError as error:
                failures.append(BadSample(*self._pool.describe(address), error.cause, error.detail))
                continue
            taken.add((block.source, block.place, position))
            return named
        listed = "\n".join(f"  {each.shard} {each.key}: {each.cause}: {each.detail}" for each in failures[:20])
        tried = f"tried {len(failures)} sample{'' if len(failures) == 1 else 's'}"
        raise UserError(
            f"no sample could be read for step {step}, lane {slot.block.lane}; {tried}, among them\n"
            f"{listed}\nCheck the whole set with: trichord shards verify"
        )

    def _substitutes(self, slot: Slot, taken: set[Place]) -> Iterator[tuple[Block, int]]:
        """Yield possible substitutes: from the rest of the block, then the next blocks, then those in the batch.

        A substitute is also read at its own place; if it fails, it is counted as bad only there.
        """
        start = slot
        for _ in range(_BLOCKS_TRIED):
            block = start.block
            around = ((start.position + i) % len(block) for i in range(len(block)))
            fresh = [position for position in around if (block.source, block.place, position) not in taken]
            for position in fresh[:_TRIES_IN_A_BLOCK]:
                yield block, position
            start = self._order.sources[block.source].block_after(start)
        for i in range(1, min(len(slot.block), _TRIES_IN_A_BLOCK)):
            yield slot.block, (slot.position + i) % len(slot.block)

    def _read(self, address: SampleAddress, step: int) -> Named:
        raw = self._pool.read(address)
        example = transform_or_name(self._transform, raw, self._seed, "augment", step)
        return Named(example, raw.key, raw.shard, address.source)

    def _follow(self, slots: Sequence[Slot]) -> None:
        """When a lane enters a block, fetch its shards and those of the next block, and release all others."""
        is_new = False
        for slot in slots:
            block = slot.block
            stream = (block.lane, block.source)
            if self._wanted.get(stream, (None,))[0] == block.place:
                continue
            now, then = _shards_of(block), _shards_of(self._order.sources[block.source].block_after(slot).block)
            self._wanted[stream] = (block.place, now | then)
            self._pool.expect(sorted(now))
            is_new = True
        if is_new:
            every = {shard for _, shards in self._wanted.values() for shard in shards}
            # A batch may contain the end of a block and the start of the next, so keep the slots' own blocks too.
            every |= {shard for slot in slots for shard in _shards_of(slot.block)}
            self._pool.keep(every)
            self._pool.expect(sorted(every))


def transform_or_name(transform: SampleTransform, raw: RawSample, seed: int, *purpose: int | str) -> Example:
    """Run the transform with the sample's own generator; add a note that names the sample to unexpected errors."""
    try:
        return transform(raw, generator(seed, *purpose, raw.key))
    except SampleError:
        raise
    except Exception as error:
        error.add_note(f"while reading sample {raw.key} of shard {raw.shard}")
        raise


def _shards_of(block: Block) -> set[ShardId]:
    return {ShardId(block.source, shard) for shard in np.unique(block.shards).tolist()}
