"""Reader of some stream lanes: their part of a step's batch, with substitutes for samples that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from trichord.core.errors import SampleError, UserError
from trichord.core.seeds import generator
from trichord.shards.reading.batch import BadSample, Batch, Example, Named, SampleTransform, Stacker, collate
from trichord.shards.reading.order import Block, Order, SampleAddress, Slot
from trichord.shards.reading.pool import ArchivePool, ShardId
from trichord.shards.record import RawSample

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
        left_out, surplus = self._pool.take_news()
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
