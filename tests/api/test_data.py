"""Shards open and stream by one call, in the order that recipes get."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import trichord


def test_a_set_has_a_length_and_its_samples_in_order(top: Path) -> None:
    shards = trichord.open_shards(top / "texts")
    samples = list(shards)
    assert len(samples) == len(shards) == 16
    assert [each.key for each in samples[:2]] == ["clip000", "clip001"]
    assert samples[3].annotation().captions == ("thing number 3",)
    assert repr(shards) == f"ShardSet({str(top / 'texts')!r}: 16 clips in 4 shards)"


def test_a_damaged_shard_is_named(top: Path, tmp_path: Path) -> None:
    shutil.copytree(top / "texts", tmp_path / "texts")
    shard = tmp_path / "texts/00001.tar"
    shard.write_bytes(shard.read_bytes()[:20000])
    with pytest.raises(trichord.UserError, match=r"00001\.tar of .* cannot be read.*trichord shards verify"):
        list(trichord.open_shards(tmp_path / "texts"))


def test_training_streams_the_same_batches_from_any_step(top: Path) -> None:
    how = {"batch_size": 4, "frames": 2, "size": 16, "seed": 3}
    with trichord.stream(top / "texts", **how) as batches:  # type: ignore[arg-type]
        first, second = next(batches), next(batches)
    with trichord.stream(top / "texts", start_step=1, **how) as batches:  # type: ignore[arg-type]
        again = next(batches)
    assert first.video[0].shape == (4, 3, 2, 16, 16)
    assert first.key != second.key == again.key
    assert torch.equal(second.video[0], again.video[0])


def test_evaluation_streams_every_clip_once(top: Path) -> None:
    with trichord.stream(top / "texts", batch_size=5, frames=2, size=16, training=False) as batches:
        keys = [key for batch in batches for key, valid in zip(batch.key, batch.valid.tolist(), strict=True) if valid]
    assert sorted(keys) == [f"clip{number:03d}" for number in range(16)]


def test_two_ranks_get_the_halves_of_the_batch(top: Path) -> None:
    parts = []
    for rank in range(2):
        how = {"batch_size": 4, "frames": 2, "size": 16, "rank": rank, "world_size": 2}
        with trichord.stream(top / "texts", **how) as batches:  # type: ignore[arg-type]
            parts.append(next(batches))
    with trichord.stream(top / "texts", batch_size=4, frames=2, size=16) as batches:
        whole = next(batches)
    assert [*parts[0].key, *parts[1].key] == whole.key


def test_an_unknown_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(trichord.UserError, match="no layout 'films'"):
        trichord.build_shards("films", tmp_path, tmp_path / "out")
