"""A pass writes embeddings to files, and suggests a remedy where the disk is full."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.pretrain.objectives import av_stage
from trichord.core.errors import RunStopped
from trichord.pretrain.clustering.bank import hash_keys
from trichord.pretrain.objectives.av_prototypes.rounds import feature_pass
from trichord.shards.reading.batch import Batch

DIMS = {"video": 5, "audio": 3}
STEPS = 3
Embedded = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]


def embed(batch: Batch) -> Embedded:
    """Return numbers that identify the clip, and NaN where there is no sound."""
    own_B1 = torch.arange(len(batch.key))[:, None] + 100.0 * batch.step
    audio_BD = torch.where(batch.audio_present[:, None], own_B1 + 0.5, torch.nan).expand(-1, 3)
    return {"video": own_B1.expand(-1, 5), "audio": audio_BD}, {
        "video": batch.valid,
        "audio": batch.audio_present,
    }


def reader() -> Iterator[Batch]:
    step = 0
    while True:
        yield av_stage.batch(step=step)
        step += 1


def test_rows_keys_and_labels_are_aligned_and_silent_clips_have_no_sound() -> None:
    batches = [av_stage.batch(step=step) for step in range(STEPS)]
    with feature_pass(reader(), STEPS, DIMS, embed, torch.device("cpu")) as store:
        for name in DIMS:
            kept = [
                (embed(batch)[0][name][row], batch.key[row], batch.labels[row][0])
                for batch in batches
                for row in range(av_stage.BATCH)
                if name == "video" or batch.audio_present[row]
            ]
            found_nD = torch.cat([chunk.clone() for chunk in store.rows(name).chunks()])
            assert torch.equal(found_nD, torch.stack([row_D for row_D, _, _ in kept]))
            assert torch.equal(store.keys(name), hash_keys([key for _, key, _ in kept]))
            assert store.truths(name).tolist() == [label for _, _, label in kept]
            assert (store.ages(name).diff() < 0).all()
            assert store.ages(name)[-1] == (name == "audio")  # the last clip is silent
        folder = Path(store._folder)
        assert folder.exists()
    assert not folder.exists()


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Limit the size of files, which fails like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_stops_the_run_with_a_remedy() -> None:
    """Even for few bytes: the error must not appear only when files are closed."""
    with (
        files_of_at_most(100),
        pytest.raises(RunStopped, match=r"could not be written to .*: .*Set TMPDIR to a larger disk"),
        feature_pass(reader(), STEPS, DIMS, embed, torch.device("cpu")),
    ):
        raise AssertionError("nothing can be clustered")
