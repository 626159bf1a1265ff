"""`shards read`: equal digests for equal batches, different ones for different batches, and figures of the samples."""

from __future__ import annotations

import pytest
import webdataset

from tests.shards import media
from trichord.shards.inspection.read import read, usual_recipe
from trichord.shards.reading.manifest import index_shards
from trichord.shards.reading.stream_config import SourceConfig, StreamConfig


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> StreamConfig:
    folder = tmp_path_factory.mktemp("set")
    for shard in range(2):
        with webdataset.TarWriter(str(folder / f"{shard:05d}.tar"), encoder=False) as writer:
            for number in range(4):
                data = media.clip(20, seed=4 * shard + number, sound=number > 0)
                writer.write({"__key__": f"{shard}{number}", "mp4": data, "txt": b"a clip"})
    index_shards(folder).save(folder)
    return StreamConfig(sources=(SourceConfig(root=str(folder)),), batch_size=4, lanes=2)


def test_digest_depends_on_the_batches_and_not_on_how_they_are_read(config: StreamConfig) -> None:
    spec = usual_recipe(frames=4, size=32)
    first = read(config, spec, steps=4)
    shared = read(config.model_copy(update={"workers": 2}), spec, steps=4)
    later = read(config, spec, steps=4, start_step=1)
    other = read(config.model_copy(update={"seed": 1}), spec, steps=4)
    assert first["digest"] == shared["digest"]
    assert len({first["digest"], later["digest"], other["digest"]}) == 3


def test_figures_count_the_samples_that_were_read(config: StreamConfig) -> None:
    beats: list[int] = []
    row = read(config, usual_recipe(frames=4, size=32), steps=4, beat=lambda: beats.append(1))
    assert (row["steps"], row["clips"], row["workers"], row["bad"]) == (4, 16, 0, {})
    assert row["without sound"] == pytest.approx(0.25)  # two complete passes over eight clips, two of them silent
    assert row["clips a second"] > 0 and row["first batch after, s"] > 0 and len(beats) == 4
