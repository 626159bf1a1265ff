"""The order of samples: each pass has every sample once, any step is computed directly, mixtures keep their shares."""

from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trichord.core.errors import UserError
from trichord.shards.reading.order import PERIOD, Mixture, Order, SampleAddress, share_lanes

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any)


def one_source(counts: list[int], lanes: int, block_shards: int = 2, per_lane: int = 1, seed: int = 5) -> Order:
    return Order([counts], [1.0], seed=seed, lanes=lanes, block_shards=block_shards, batch_size=lanes * per_lane)


def every_sample(counts: list[int]) -> list[tuple[int, int]]:
    return [(shard, index) for shard, count in enumerate(counts) for index in range(count)]


@settings(max_examples=80, deadline=None)
@given(COUNTS, st.integers(1, 8), st.integers(1, 4), st.integers(0, 3))
def test_each_pass_holds_every_sample_exactly_once(
    counts: list[int], lanes: int, block_shards: int, pass_number: int
) -> None:
    order = one_source(counts, lanes, block_shards)
    visited = []
    # A pass is spread over the rounds of all lanes: visit them all and keep the samples of the pass.
    stretch, total = order.sources[0].stretch, sum(counts)
    for visit in range(
        (pass_number * total // (stretch * lanes)) * stretch,
        ((pass_number + 1) * total // (stretch * lanes) + 1) * stretch,
    ):
        for lane in range(lanes):
            slot = order.sources[0].locate(lane, visit)
            if slot.block.place[0] == pass_number:
                address = slot.block.address(slot.position)
                visited.append((address.shard, address.index))
    assert sorted(visited) == every_sample(counts)


@settings(max_examples=40, deadline=None)
@given(COUNTS, st.integers(1, 6), st.integers(1, 3), st.integers(1, 3))
def test_random_access_equals_iteration(counts: list[int], lanes: int, block_shards: int, per_lane: int) -> None:
    walker = one_source(counts, lanes, block_shards, per_lane)
    walked = [walker.batch(step) for step in range(30)]
    for step in (29, 0, 17, 3):
        assert one_source(counts, lanes, block_shards, per_lane).batch(step) == walked[step]


@settings(max_examples=40, deadline=None)
@given(COUNTS, st.integers(1, 6), st.integers(1, 3))
def test_lanes_draw_equally_often_and_samples_nearly_so(counts: list[int], lanes: int, block_shards: int) -> None:
    order = one_source(counts, lanes, block_shards)
    steps = 4 * order.sources[0].stretch
    visits = Counter((a.shard, a.index) for step in range(steps) for a in order.batch(step))
    passes = steps * lanes / sum(counts)
    assert set(visits) == set(every_sample(counts))
    assert min(visits.values()) >= int(passes) - 1
    assert max(visits.values()) <= int(passes) + 2


def test_equal_shards_are_not_split_and_blocks_mix_whole_shards() -> None:
    order = one_source([10] * 24, lanes=4, block_shards=3)
    first = order.sources[0].locate(lane=1, visit=0).block
    assert len(first) == 30
    assert sorted(Counter(first.shards.tolist()).values()) == [10, 10, 10]
    owners = {}
    for lane in range(4):
        for visit in range(60):
            slot = order.sources[0].locate(lane, visit)
            owners.setdefault(int(slot.block.shards[slot.position]), set()).add(lane)
    assert all(len(lanes) == 1 for lanes in owners.values())
    assert len(owners) == 24


def test_a_block_is_shuffled_and_a_seed_changes_everything() -> None:
    order, other = one_source([100] * 8, 2, 4), one_source([100] * 8, 2, 4, seed=6)
    shards = order.sources[0].locate(0, 0).block.shards.tolist()
    assert sum(a != b for a, b in pairwise(shards)) > 200  # of 399 neighbours; 3 if it were unshuffled
    assert order.batch(0) != other.batch(0)
    assert order.sources[0].locate(0, 0).block.shards.tolist() != order.sources[0].locate(0, 400).block.shards.tolist()


def test_fewer_shards_than_lanes_are_split_so_that_lanes_mix() -> None:
    order = one_source([64], lanes=8, block_shards=2)
    steps = [order.batch(step) for step in range(8)]
    assert sorted(a.index for batch in steps for a in batch) == list(range(64))
    # The 8 samples of a lane are two distant slices; by chance, a few lanes have two adjacent ones.
    lanes = [sorted(batch[lane].index for batch in steps) for lane in range(8)]
    assert sum(indices[-1] - indices[0] > 7 for indices in lanes) >= 5


def test_set_smaller_than_the_number_of_lanes_serves_all() -> None:
    order = one_source([2, 1], lanes=8)
    seen = Counter((a.shard, a.index) for step in range(3) for a in order.batch(step))
    assert seen == {(0, 0): 8, (0, 1): 8, (1, 0): 8}


def test_the_batch_is_lane_major_with_equal_parts() -> None:
    order = one_source([50] * 6, lanes=3, per_lane=2)
    assert [a.lane for a in order.batch(4)] == [0, 0, 1, 1, 2, 2]
    assert isinstance(order.batch(4)[0], SampleAddress)


def test_random_access_is_fast_for_millions_of_clips_and_steps() -> None:
    def cost(step: int) -> float:
        begin = time.process_time()
        order = Order([[1000] * 10_000], [1.0], seed=1, lanes=64, block_shards=4, batch_size=1024)
        order.batch(step)
        return time.process_time() - begin

    at_start, later = cost(0), min(cost(10_000_000), cost(10_000_001))
    assert later < 3 * at_start + 0.5
    assert later < 2.0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.05, 10), min_size=1, max_size=5), st.integers(1, 32), st.integers(0, 3 * PERIOD))
def test_mixture_keeps_its_shares_over_any_thousand_slots(weights: list[float], lanes: int, start: int) -> None:
    mixture = Mixture(weights, lanes)
    shares = np.asarray(weights) / sum(weights)
    lane = start % lanes
    taken = np.bincount([mixture.source(lane, slot) for slot in range(start, start + 1000)], minlength=len(weights))
    assert np.abs(taken / 1000 - shares).max() < 0.01
    assert [
        mixture.taken_before(lane, start + 1000, s) - mixture.taken_before(lane, start, s) for s in range(len(weights))
    ] == taken.tolist()


@pytest.mark.parametrize("weights", [[1, 1], [3, 1], [5, 2, 1], [0.7, 0.299, 0.001]])
@pytest.mark.parametrize("lanes", [1, 2, 8, 64])
def test_every_batch_of_a_mixture_has_the_shares(weights: list[float], lanes: int) -> None:
    mixture = Mixture(weights, lanes)
    shares = np.asarray(weights) / sum(weights)
    for slot in (0, 1, 7, 100_000):
        taken = np.bincount([mixture.source(lane, slot) for lane in range(lanes)], minlength=len(weights))
        assert np.abs(taken - shares * lanes).max() < 2


def test_sources_of_a_mixture_are_each_visited_evenly() -> None:
    order = Order([[10] * 4, [5] * 3], [3, 1], seed=0, lanes=4, block_shards=2, batch_size=8)
    addresses = [a for step in range(400) for a in order.batch(step)]
    for source, total, expected in ((0, 40, 2400 / 40), (1, 15, 800 / 15)):
        visits = Counter((a.shard, a.index) for a in addresses if a.source == source)
        assert len(visits) == total
        assert max(abs(count - expected) for count in visits.values()) < 4


def test_lanes_are_shared_contiguously() -> None:
    assert share_lanes(8, rank=1, world_size=2, workers=2) == [[4, 5], [6, 7]]
    assert share_lanes(8, rank=0, world_size=2, workers=0) == [[0, 1, 2, 3]]


def test_errors_name_the_nearest_valid_choices() -> None:
    with pytest.raises(UserError, match=r"lanes=16 .* 3 ranks x 2 workers = 6 .* lanes 12 or 18"):
        share_lanes(16, 0, 3, 2)
    with pytest.raises(UserError, match=r"2 ranks x 3 workers = 6 readers. Nearest: workers 2 or 4, or lanes 12 or 18"):
        share_lanes(16, 0, 2, 3)
    with pytest.raises(UserError, match=r"batch_size=30 .*lanes=16.*batch_size 16 or 32, or lanes 15 or 30"):
        Order([[5]], [1.0], seed=0, lanes=16, block_shards=1, batch_size=30)
    with pytest.raises(UserError, match="has no samples"):
        one_source([0, 0], 1)
    with pytest.raises(UserError, match="above 0"):
        Mixture([1.0, 0.0], 2)
    with pytest.raises(UserError, match="smallest possible share"):
        Mixture([1.0, 1e-9], 2)
