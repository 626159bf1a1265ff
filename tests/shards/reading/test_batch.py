"""Batches: rows, concatenation, transfer to a device, and transport through the queue of a worker."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence

import pytest
import torch

from trichord.core.errors import Cause
from trichord.shards.reading.batch import BadSample, Batch, Example, Named, Timeline, collate, stack_anew

PER_SAMPLE = ("text", "labels", "key", "shard", "source", "position", "timeline")
BAD = BadSample("0.tar", "9", Cause.CODEC, "torn")


def batch_of(numbers: Sequence[int]) -> Batch:
    """Build a batch in which every value contains the number of its sample."""
    named = [
        Named(
            Example(
                video=[
                    torch.full((3, 2, 4, 4), number, dtype=torch.uint8),
                    torch.full((3, 1, 2, 2), number + 100).byte(),
                ],
                audio=[torch.full((5, 2), float(number))],
                audio_present=number % 2 == 0,
                text=f"text {number}",
                labels=(number, number + 1),
                timeline=Timeline(((0.0, float(number)),), float(number)),
            ),
            key=f"{number:06d}",
            shard=f"{number // 2}.tar",
            source=number % 3,
            position=number,
            valid=number != 3,
        )
        for number in numbers
    ]
    return collate(named, 7, [BAD], [BAD], 4, stack_anew)


def assert_equal(found: Batch, expected: Batch) -> None:
    for one, other in zip(found.tensors(), expected.tensors(), strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)
    for name in PER_SAMPLE:
        assert getattr(found, name) == getattr(expected, name), name
    assert (found.step, found.bad, found.left_out, found.surplus) == (
        expected.step,
        expected.bad,
        expected.left_out,
        expected.surplus,
    )


@pytest.mark.parametrize("numbers", [[0, 1], [2, 3, 4], [5], []])
def test_rows_of_a_slice_share_memory_with_the_batch(numbers: list[int]) -> None:
    whole = batch_of(range(6))
    start = numbers[0] if numbers else 6
    found = whole.rows(slice(start, start + len(numbers)))
    assert len(found) == len(numbers) == len(found.valid)
    if numbers:
        assert_equal(found, batch_of(numbers))
        assert found.video[0].data_ptr() == whole.video[0][start].data_ptr()


def test_rows_of_indices_are_in_their_order_and_may_repeat() -> None:
    assert_equal(batch_of(range(6)).rows([4, 0, 4, 3]), batch_of([4, 0, 4, 3]))


def test_cat_copies_the_parts_in_order_with_their_records() -> None:
    parts = [batch_of([0, 1]), batch_of([2, 3, 4])]
    found = Batch.cat(parts)
    assert (len(found), found.step, found.bad, found.left_out, found.surplus) == (5, 7, [BAD] * 2, [BAD] * 2, 8)
    assert_equal(found.replace(bad=[BAD], left_out=[BAD], surplus=4), batch_of(range(5)))
    for tensor in parts[0].tensors():
        tensor.zero_()
    assert (found.video[1][1] == 101).all() and found.valid[0]


def test_cat_of_one_part_is_a_copy_as_well() -> None:
    part = batch_of([1, 2])
    found = Batch.cat([part])
    assert_equal(found, part)
    assert all(a.data_ptr() != b.data_ptr() for a, b in zip(found.tensors(), part.tensors(), strict=True))


def test_to_moves_every_tensor_and_keeps_all_else() -> None:
    batch = batch_of(range(4))
    moved = batch.to(torch.device("meta"), non_blocking=True)
    assert {tensor.device.type for tensor in moved.tensors()} == {"meta"} and len(moved.tensors()) == 5
    assert [tensor.shape for tensor in moved.tensors()] == [tensor.shape for tensor in batch.tensors()]
    assert all(getattr(moved, name) is getattr(batch, name) for name in PER_SAMPLE)
    assert all(a is b for a, b in zip(batch.to(torch.device("cpu")).tensors(), batch.tensors(), strict=True))


def test_every_field_is_per_sample_or_per_batch() -> None:
    """A new field of the batch must have one value per sample, or be listed as one of the whole batch."""
    whole = {"video", "audio", "audio_present", "valid", "step", "bad", "left_out", "surplus"}
    assert {field.name for field in dataclasses.fields(Batch)} == whole | set(PER_SAMPLE)
    batch = batch_of([0])
    assert batch.inputs("video") is batch.video and batch.inputs("audio") is batch.audio


def test_batch_can_be_sent_through_a_queue() -> None:
    batch = batch_of(range(3))
    assert_equal(pickle.loads(pickle.dumps(batch)), batch)
