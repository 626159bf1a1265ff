"""The reading benchmark: the same work for both readers, compared results, and the CPU time of each reader alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import webdataset

from benchmarks.reading import contenders, footage, run, steady
from benchmarks.reading.comparison import compare
from tests.shards import media
from trichord.core.errors import UserError
from trichord.shards.reading.manifest import index_shards


class Quick:
    """A reader that returns at once."""

    needs: ClassVar[tuple[str, ...]] = ()

    def frames(self, data: bytes, indices: tuple[int, ...]) -> np.ndarray[Any, Any]:
        return np.array(indices)


class Slow(Quick):
    """A reader that burns CPU time first, and is one off."""

    def frames(self, data: bytes, indices: tuple[int, ...]) -> np.ndarray[Any, Any]:
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
        return np.array(indices) + 1


class Broken(Quick):
    """A reader that returns another shape."""

    def frames(self, data: bytes, indices: tuple[int, ...]) -> np.ndarray[Any, Any]:
        return np.zeros(7)


class Failing(Quick):
    """A reader that raises."""

    def frames(self, data: bytes, indices: tuple[int, ...]) -> np.ndarray[Any, Any]:
        raise ValueError("no such codec")


def _nothing() -> None:
    pass


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    with webdataset.TarWriter(str(folder / "00000.tar"), encoder=False) as writer:
        for number in range(4):
            writer.write({"__key__": str(number), "mp4": media.clip(60, seed=number)})
    index_shards(folder).save(folder)
    return folder


def test_compare_measures_cpu_time_and_differences() -> None:
    compared = compare("frames", Quick, Slow, [(b"", (1, 2)), (b"", (3, 4))], 2, _nothing)
    assert compared.theirs_ms >= 50 > 10 > compared.ours_ms and compared.ratio.median > 5
    assert compared.differs == (1.0,)


class Pictures:
    """A reader that returns as many frames as requested."""

    needs: ClassVar[tuple[str, ...]] = ()

    def frames(self, data: bytes, indices: tuple[int, ...]) -> np.ndarray[Any, Any]:
        return np.zeros((3, len(indices), 4, 5), np.uint8)


class OneWrong(Pictures):
    """A reader with one wrong plane in one frame."""

    def frames(self, data: bytes, indices: tuple[int, ...]) -> np.ndarray[Any, Any]:
        pictures = super().frames(data, indices)
        pictures[1, 2] = 4
        return pictures


def test_one_wrong_frame_among_many_exceeds_the_tolerance() -> None:
    compared = compare("frames", Pictures, OneWrong, [(b"", tuple(range(8)))], 1, _nothing)
    assert compared.differs == (4.0,) and compared.differs > run.FRAMES_APART


def test_other_shapes_and_failures_are_errors() -> None:
    with pytest.raises(UserError, match="not the same work"):
        compare("frames", Quick, Broken, [(b"", (1, 2))], 1, _nothing)
    with pytest.raises(UserError, match="process of 'Failing' failed: ValueError: no such codec"):
        compare("frames", Quick, Failing, [(b"", (1, 2))], 1, _nothing)


def test_all_readers_return_the_same(shard_set: Path) -> None:
    data = media.clip(60)
    chosen = (0, 7, 30, 59)
    assert np.array_equal(contenders.OurReader().frames(data, chosen), contenders.PyAV().frames(data, chosen))
    assert compare(
        "walk", contenders.OurReader, contenders.Webdataset, [(shard_set / "00000.tar", 1)], 1, _nothing
    ).differs == (0.0,)
    noise = (0.1 * np.random.default_rng(0).standard_normal(32000)).astype(np.float32)
    apart = np.abs(contenders.OurReader().fbank(noise) - contenders.Webdataset().fbank(noise))
    assert apart.max() < 1e-5


def test_footage_and_windows_have_the_documented_sizes() -> None:
    pictures = [
        footage._picture(0, time_s, footage._texture(np.random.default_rng(0)), np.zeros((256, 340), np.float32))
        for time_s in (0.0, 0.5)
    ]
    assert pictures[0].shape == (256, 340, 3) and (pictures[0] != pictures[1]).mean() > 0.5
    assert len(run.UNIFORM) == len(run.WINDOW) == 8 and run.UNIFORM[-1] == 299
    assert max(run.WINDOW) < (run.WINDOW_START_S + 2) * footage.FRAMES_PER_SECOND


def test_stream_cost_and_memory_growth_are_measured(shard_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steady, "TURNS", 1)
    bare_ms, stream_ms = steady.stream_cost(shard_set, 0, 1, _nothing)
    assert 0 < bare_ms < 10 * stream_ms
    early, late = steady.memory_growth(shard_set, 100, _nothing)
    assert 50 < early <= late * 1.01 and late < 2000


def test_unknown_contender_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="no contender is called opencv; there are torchcodec, decord, pyav, webdataset"
    ):
        run.bench(tmp_path, ["opencv"])
