"""The order of samples as a pure function of (manifests, weights, seed, lanes, step), without any iteration state.

The samples are distributed over a fixed number of stream lanes ("lanes"): independent sequences of samples, each read
by one worker, from all of which a batch takes equally many samples. So the order does not depend on ranks and workers.

Every pass over a source permutes its shards (or slices of them, where the lanes need more units than there are shards)
and concatenates them; the passes are concatenated in turn, without end. This sequence is divided among the lanes in
rounds of equal stretches: in round r, lane l owns the `stretch` places from (r * lanes + l) * stretch on. So all lanes
advance equally fast, each pass contains every sample exactly once, and at most one shard per lane and round is split
between two lanes. Within its stretch, a lane proceeds in blocks of `block_shards` shards whose samples are shuffled
together.

With several sources, a fixed pattern determines which source the n-th slot of a lane takes. The pattern is the
golden-ratio (Kronecker) sequence compared with the cumulative weights: over any stretch of one lane the shares are
within a few slots of the weights, and the lanes start at places so evenly spaced that the same holds for a batch across
lanes. The pattern is periodic, so counts up to any slot are computed directly.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from trichord.core.errors import UserError
from trichord.core.seeds import generator

IntArray = npt.NDArray[np.int64]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, order=True)
class SampleAddress:
    """Address of a sample: `shard` is its place in the source's manifest, `index` the sample's place in the shard."""

    source: int
    shard: int
    index: int
    lane: int


@dataclass(frozen=True)
class Block:
    """Samples that are shuffled together; `shards` and `indices` are in the order of the visits."""

    source: int
    lane: int
    place: tuple[int, int]  # (pass, first place in it), which identifies the block
    shards: IntArray
    indices: IntArray

    def __len__(self) -> int:
        return len(self.shards)

    def address(self, position: int) -> SampleAddress:
        """Return the address of the sample at this position of the block."""
        return SampleAddress(self.source, int(self.shards[position]), int(self.indices[position]), self.lane)


class Slot(NamedTuple):
    """A slot of a batch; its sample is `block.address(position)`, `visit` counts the lane's visits to the source."""

    block: Block
    position: int
    visit: int


class _Recent(Generic[T]):
    """A cache of the most recently used results, which can be recomputed at any time."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        value = self._kept[key] = compute()
        if len(self._kept) > self._capacity:
            self._kept.popitem(last=False)
        return value


@dataclass(frozen=True)
class _Pass:
    """One pass: its units in order, and the place after the last sample of each."""

    units: IntArray
    ends: IntArray


class SourceOrder:
    """The endless order of one source, divided among lanes."""

    def __init__(
        self, counts: Sequence[int], source: int, *, seed: int, lanes: int, block_shards: int, served_lanes: int
    ) -> None:
        self._source, self._seed, self._lanes, self._block_shards = source, seed, lanes, block_shards
        samples = np.asarray(counts, dtype=np.int64)
        self.total = int(samples.sum())
        if self.total == 0:
            shards = f"{len(samples)} shard{'' if len(samples) == 1 else 's'}"
            raise UserError(f"source {source} has no samples: its manifest lists {shards}, all empty")
        filled = np.flatnonzero(samples)
        slices = -(-lanes * block_shards // len(filled))  # 1 if there are enough shards for a block in every lane
        self._unit_shard, self._unit_start, self._unit_count = _cut(filled, samples[filled], slices)
        self.stretch = -(-self.total // lanes)
        self._passes: _Recent[_Pass] = _Recent(4)
        self._blocks: _Recent[Block] = _Recent(2 * served_lanes + 2)

    def locate(self, lane: int, visit: int) -> Slot:
        """Return the slot of the lane's visit number `visit` to this source: the block and the position in it."""
        round_number, offset = divmod(visit, self.stretch)
        begin = (round_number * self._lanes + lane) * self.stretch
        number, place = divmod(begin + offset, self.total)
        low = max(begin - number * self.total, 0)
        high = min(begin + self.stretch - number * self.total, self.total)
        this_pass = self._passes.get(number, lambda: self._compute_pass(number))
        first, unit, last = (int(i) for i in np.searchsorted(this_pass.ends, [low, place, high - 1], side="right"))
        # Units are divided evenly among the blocks of the stretch, so that no block is too small to shuffle well.
        units = last - first + 1
        blocks = -(-units // self._block_shards)
        block = ((unit - first + 1) * blocks - 1) // units
        left, right = first + block * units // blocks, first + (block + 1) * units // blocks
        starts_at = max(low, int(this_pass.ends[left - 1]) if left else 0)
        ends_at = min(high, int(this_pass.ends[right - 1]))
        found = self._blocks.get(
            (lane, number, starts_at), lambda: self._compute_block(this_pass, lane, number, starts_at, ends_at)
        )
        return Slot(found, place - starts_at, visit)

    def block_after(self, slot: Slot) -> Slot:
        """Return the first slot of the lane's next block."""
        return self.locate(slot.block.lane, slot.visit - slot.position + len(slot.block))

    def _compute_pass(self, number: int) -> _Pass:
        units = generator(self._seed, "shards", self._source, number).permutation(len(self._unit_shard))
        return _Pass(units, np.cumsum(self._unit_count[units]))

    def _compute_block(self, this_pass: _Pass, lane: int, number: int, starts_at: int, ends_at: int) -> Block:
        shuffled = generator(self._seed, "block", self._source, number, starts_at).permutation(ends_at - starts_at)
        places = starts_at + shuffled
        where = np.searchsorted(this_pass.ends, places, side="right")
        units = this_pass.units[where]
        within = places - (this_pass.ends[where] - self._unit_count[units])
        return Block(self._source, lane, (number, starts_at), self._unit_shard[units], self._unit_start[units] + within)


class Order:
    """The batches of a run: the same number of slots from every lane, in lane order."""

    def __init__(
        self,
        counts: Sequence[Sequence[int]],
        weights: Sequence[float],
        *,
        seed: int,
        lanes: int,
        block_shards: int,
        batch_size: int,
        served_lanes: int | None = None,
    ) -> None:
        """Build from the sample counts of each source's shards; `served_lanes` (fewer than all) limits the caches."""
        if batch_size % lanes:
            near = [size for size in (batch_size // lanes * lanes, (batch_size // lanes + 1) * lanes) if size]
            raise UserError(
                f"batch_size={batch_size} is not a multiple of lanes={lanes}. "
                f"Nearest: batch_size {' or '.join(map(str, near))}, or lanes {nearest_divisors(batch_size, lanes)}"
            )
        self.lanes = lanes
        self.slots_per_lane = batch_size // lanes
        self._mixture = Mixture(weights, lanes)
        served = served_lanes or lanes
        self.sources = [
            SourceOrder(each, i, seed=seed, lanes=lanes, block_shards=block_shards, served_lanes=served)
            for i, each in enumerate(counts)
        ]

    def lane_slots(self, step: int, lane: int) -> list[Slot]:
        """Return the lane's slots of the batch of this step."""
        slots = []
        for slot in range(step * self.slots_per_lane, (step + 1) * self.slots_per_lane):
            source = self._mixture.source(lane, slot)
            slots.append(self.sources[source].locate(lane, self._mixture.taken_before(lane, slot, source)))
        return slots

    def batch(self, step: int) -> list[SampleAddress]:
        """Return the addresses of the global batch of this step."""
        return [slot.block.address(slot.position) for lane in range(self.lanes) for slot in self.lane_slots(step, lane)]


def share_lanes(lanes: int, rank: int, world_size: int, workers: int) -> list[list[int]]:
    """Return the lanes of each of this rank's workers; with 0 workers the rank itself counts as one."""
    readers = world_size * max(workers, 1)
    if lanes % readers:
        below, above = lanes // readers * readers, (lanes // readers + 1) * readers
        fitting = nearest_divisors(lanes // world_size, workers) if lanes % world_size == 0 else None
        choice = f"workers {fitting}, or " if fitting else ""
        ranks = f"{world_size} rank{'' if world_size == 1 else 's'}"
        workers_each = f"{max(workers, 1)} worker{'' if workers <= 1 else 's'}"
        raise UserError(
            f"lanes={lanes} cannot be shared by {ranks} x {workers_each} = {readers} readers. "
            f"Nearest: {choice}lanes {f'{below} or ' if below else ''}{above}. "
            "The sample order depends on lanes: in a run that has started, change workers or ranks instead."
        )
    each = lanes // readers
    first = rank * max(workers, 1) * each
    return [list(range(first + i * each, first + (i + 1) * each)) for i in range(max(workers, 1))]


def nearest_divisors(number: int, wanted: int) -> str:
    """Return the divisors of `number` next to `wanted`, as text for an error message."""
    divisors = [i for i in range(1, number + 1) if number % i == 0]
    below = [i for i in divisors if i < wanted][-1:]
    above = [i for i in divisors if i > wanted][:1]
    return " or ".join(map(str, below + above))


def _cut(shards: IntArray, counts: IntArray, slices: int) -> tuple[IntArray, IntArray, IntArray]:
    """Cut each shard into slices of nearly equal size; return (shard, first sample, samples) of every slice."""
    edges = counts[:, None] * np.arange(slices + 1)[None, :] // slices
    sizes = np.diff(edges, axis=1)
    kept = sizes > 0
    return np.repeat(shards, kept.sum(axis=1)), edges[:, :-1][kept], sizes[kept]


PERIOD = 75025  # consecutive Fibonacci numbers: multiples of the one, modulo the other, fill the period evenly
_STEP = 46368


class Mixture:
    """The pattern of sources for given weights and lanes."""

    def __init__(self, weights: Sequence[float], lanes: int) -> None:
        shares = np.asarray(weights, dtype=np.float64)
        if len(shares) == 0 or not np.all(np.isfinite(shares)) or np.any(shares <= 0):
            raise UserError(f"weights are {list(weights)}: expected at least one, all of them above 0")
        shares = shares / shares.sum()
        if np.any(shares < 2 / PERIOD):
            raise UserError(
                f"weights {list(weights)} give source {int(shares.argmin())} a share of {shares.min():.2g}; "
                f"the smallest possible share is {2 / PERIOD:.2g}. Remove the source or raise its weight."
            )
        places = (np.arange(PERIOD, dtype=np.int64) * _STEP) % PERIOD
        edges = np.round(np.cumsum(shares)[:-1] * PERIOD)
        self.pattern = np.searchsorted(edges, places, side="right").astype(np.int32)
        taken = np.eye(len(shares), dtype=np.int32)[self.pattern]
        self._taken_before = np.concatenate([np.zeros((1, len(shares)), np.int64), np.cumsum(taken, axis=0)])
        # Lane l starts where the sequence has the value l / lanes, so at each slot the lanes are evenly spaced.
        inverse = pow(_STEP, -1, PERIOD)
        self._phases = [(lane * PERIOD // lanes) * inverse % PERIOD for lane in range(lanes)]

    def source(self, lane: int, slot: int) -> int:
        """Return the source that this slot of the lane takes."""
        return int(self.pattern[(self._phases[lane] + slot) % PERIOD])

    def taken_before(self, lane: int, slot: int, source: int) -> int:
        """Return how many earlier slots of the lane took this source."""
        phase = self._phases[lane]
        return self._count(phase + slot, source) - self._count(phase, source)

    def _count(self, place: int, source: int) -> int:
        periods, rest = divmod(place, PERIOD)
        return periods * int(self._taken_before[PERIOD, source]) + int(self._taken_before[rest, source])
