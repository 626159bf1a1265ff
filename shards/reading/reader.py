"""Reads some lanes: for a step, their part of the batch, with a stand-in wherever a sample cannot be used."""

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
_BLOCKS_TRIED = 4  # a block may be one shard, and that shard lost

Place = tuple[int, tuple[int, int], int]  # source, block, position


class LaneReader:
    """Serves the parts of a batch that belong to some lanes; a pure function of the step and the data."""

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
        """Read the slot's own sample, or the first that can be used of those that follow it in its block.

        `taken` holds what this lane gives to the batch, so that no sample is in it twice for want of another.
        """
        own = slot.block.address(slot.position)
        try:
            return self._read(own, step)
        except SampleError as error:
            bad.append(BadSample(*self._pool.describe(own), error.cause, error.detail))
        failures = [bad[-1]]
        for block, position in self._stand_ins(slot, taken):
            address = block.address(position)
            try:
                named = self._read(address, step)
            except SampleError as error:
                failures.append(BadSample(*self._pool.describe(address), error.cause, error.detail))
                continue
            taken.add((block.source, block.place, position))
            return named
        listed = "\n".join(f"  {each.shard} {each.key}: {each.cause}: {each.detail}" for each in failures[:20])
        raise UserError(
            f"no sample could be read for step {step}, lane {slot.block.lane}: {len(failures)} were tried, among them\n"
            f"{listed}\nLook at the whole set with: trichord shards verify"
        )

    def _stand_ins(self, slot: Slot, taken: set[Place]) -> Iterator[tuple[Block, int]]:
        """Yield what may stand in, nearest first: the rest of the block, some of the blocks after it, the batch's own.

        A stand-in is seen again in its own turn; it is not counted bad here if it fails, only there.
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
        """When a lane enters a block, have its shards and those of the next fetched, and let go of the others."""
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
            # A batch may hold the end of a block and the beginning of the next: the slots' own blocks stay too.
            every |= {shard for slot in slots for shard in _shards_of(slot.block)}
            self._pool.keep(every)
            self._pool.expect(sorted(every))


def transform_or_name(transform: SampleTransform, raw: RawSample, seed: int, *purpose: int | str) -> Example:
    """Run the transform with the sample's own generator; an error that is not the sample's fault names it."""
    try:
        return transform(raw, generator(seed, *purpose, raw.key))
    except SampleError:
        raise
    except Exception as error:
        error.add_note(f"while reading sample {raw.key} of shard {raw.shard}")
        raise


def _shards_of(block: Block) -> set[ShardId]:
    return {ShardId(block.source, shard) for shard in np.unique(block.shards).tolist()}
