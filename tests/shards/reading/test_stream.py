"""The stream: the same batches for any ranks, workers and first step, and the treatment of samples that fail."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import os
import pickle
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from webdataset import TarWriter

from tests.shards.processes import descendants, is_alive, seconds_until_gone
from trichord.core.errors import Cause, SampleError, UserError
from trichord.core.seeds import generator
from trichord.shards.reading.batch import Batch, Example, Timeline
from trichord.shards.reading.evaluation import evaluation_batches
from trichord.shards.reading.manifest import index_shards
from trichord.shards.reading.root import allow_typed
from trichord.shards.reading.stream import BatchStream, LaneDataset, TooManyBadSamples, WorkerDied, batches
from trichord.shards.reading.stream_config import SourceConfig, StreamConfig
from trichord.shards.reading.transfer import TransferPolicy
from trichord.shards.record import RawSample

ALL_WAYS = [(1, 0), (1, 2), (2, 0), (2, 2), (4, 1)]


def cheap(raw: RawSample, rng: np.random.Generator) -> Example:
    """Substitute decoding: pixels from a hash of the bytes, augmentation from the generator, errors by the text."""
    text = raw.members["txt"].decode()
    if text.startswith("bad"):
        raise SampleError(Cause.CODEC, text)
    pixels = np.frombuffer(hashlib.blake2b(raw.members["mp4"], digest_size=48).digest(), np.uint8).reshape(3, 2, 2, 4)
    drawn = rng.integers(0, 256, (3, 2, 4, 4), dtype=np.uint8)
    is_silent = text.endswith("silent")
    sound = torch.zeros(6) if is_silent else torch.from_numpy(rng.standard_normal(6).astype(np.float32))
    return Example(
        video=[torch.from_numpy(pixels.copy()), torch.from_numpy(drawn)],
        audio=[sound],
        audio_present=not is_silent,
        text=text,
        labels=tuple(range(len(text) % 3)),
    )


def die(raw: RawSample, rng: np.random.Generator) -> Example:
    os._exit(9)


def sleep_long(raw: RawSample, rng: np.random.Generator) -> Example:
    time.sleep(8)
    return cheap(raw, rng)


def stumble(raw: RawSample, rng: np.random.Generator) -> Example:
    raise ZeroDivisionError("a mistake in the code")


def count_threads(raw: RawSample, rng: np.random.Generator) -> Example:
    return Example(video=[], audio=[], audio_present=False, text=str(torch.get_num_threads()), labels=())


def write_set(
    folder: Path, counts: list[int], text: Callable[[int], str] = lambda i: f"clip {i}", first: int = 0
) -> Path:
    folder.mkdir(parents=True)
    key = first
    for number, count in enumerate(counts):
        with TarWriter(str(folder / f"{number:05d}.tar")) as writer:
            for _ in range(count):
                writer.write({"__key__": f"{key:06d}", "mp4": f"video {key}".encode(), "txt": text(key)})
                key += 1
    index_shards(folder).save(folder)
    return folder


def config_of(*roots: Path | str, **options: object) -> StreamConfig:
    defaults: dict[str, object] = {"batch_size": 8, "lanes": 4, "block_shards": 2, "seed": 3}
    sources = tuple(SourceConfig(root=str(root)) for root in roots)
    return StreamConfig.model_validate({"sources": sources, **defaults, **options})


def take(stream: Iterable[Batch], count: int) -> list[Batch]:
    taken = list(itertools.islice(stream, count))
    if isinstance(stream, BatchStream):
        stream.close()
    return taken


def take_open(stream: BatchStream, count: int) -> list[Batch]:
    return list(itertools.islice(stream, count))


def global_batches(config: StreamConfig, ranks: int, workers: int, start: int, count: int) -> list[Batch]:
    config = config.model_copy(update={"workers": workers})
    per_rank = [take(batches(config, cheap, rank, ranks, start), count) for rank in range(ranks)]
    return [Batch.cat(parts) for parts in zip(*per_rank, strict=True)]


def assert_same(found: Batch, wanted: Batch) -> None:
    assert found.key == wanted.key
    assert (found.step, found.text, found.labels) == (wanted.step, wanted.text, wanted.labels)
    assert (found.shard, found.source) == (wanted.shard, wanted.source)
    assert found.bad == wanted.bad
    assert all(torch.equal(a, b) for a, b in zip(found.video, wanted.video, strict=True))
    assert torch.equal(found.audio[0], wanted.audio[0])
    assert torch.equal(found.audio_present, wanted.audio_present)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> StreamConfig:
    """Two sources, with bad and silent clips among them."""
    folder = tmp_path_factory.mktemp("mixed")

    def text(i: int) -> str:
        return "bad" if i % 11 == 5 else f"clip {i} silent" if i % 4 == 0 else f"clip {i}"

    large = write_set(folder / "large", [9, 7, 11, 8, 10], text)
    small = write_set(folder / "small", [6, 5], text, first=500)
    return StreamConfig(
        sources=(SourceConfig(root=str(large), weight=3), SourceConfig(root=str(small), weight=1)),
        batch_size=8,
        lanes=4,
        block_shards=2,
        seed=7,
        max_bad_fraction=0.5,
    )


@pytest.fixture(scope="module")
def wanted(mixed: StreamConfig) -> list[Batch]:
    return global_batches(mixed, 1, 0, 0, 24)


@pytest.mark.parametrize(("ranks", "workers"), ALL_WAYS)
def test_global_batches_do_not_depend_on_ranks_workers_or_a_stop(
    mixed: StreamConfig, wanted: list[Batch], ranks: int, workers: int
) -> None:
    for found, expected in zip(global_batches(mixed, ranks, workers, 0, 12), wanted[:12], strict=True):
        assert_same(found, expected)
    for found, expected in zip(global_batches(mixed, ranks, workers, 17, 3), wanted[17:20], strict=True):
        assert_same(found, expected)


def test_stream_resumes_identically_at_any_step(mixed: StreamConfig, wanted: list[Batch]) -> None:
    for start in range(1, 24):
        (found,) = global_batches(mixed, 1, 0, start, 1)
        assert_same(found, wanted[start])


def test_batch_equals_the_output_of_the_transform(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", [4, 4], lambda i: "silent" if i == 2 else f"clip {i}")
    batch = take(batches(config_of(root), cheap), 1)[0]
    assert sorted(batch.key) == [f"{i:06d}" for i in range(8)]
    assert [tuple(view.shape) for view in batch.video] == [(8, 3, 2, 2, 4), (8, 3, 2, 4, 4)]
    assert {view.dtype for view in batch.video} == {torch.uint8}
    assert batch.valid.tolist() == [True] * 8
    for place, key in enumerate(batch.key):
        raw = RawSample(key, "", {"mp4": f"video {int(key)}".encode(), "txt": batch.text[place].encode()})
        example = cheap(raw, generator(3, "augment", 0, key))
        assert all(torch.equal(view[place], one) for view, one in zip(batch.video, example.video, strict=True))
        assert torch.equal(batch.audio[0][place], example.audio[0])
        assert batch.audio_present[place].item() is (key != "000002")
        assert batch.labels[place] == example.labels


def test_every_pass_yields_every_sample_once(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", [5, 9, 4, 6])
    keys = [key for batch in take(batches(config_of(root), cheap), 9) for key in batch.key]
    assert Counter(keys) == {f"{i:06d}": 3 for i in range(24)}


def test_bad_sample_changes_no_other_and_its_substitute_is_no_duplicate(tmp_path: Path) -> None:
    counts = [12, 12, 12, 12]
    good = write_set(tmp_path / "good", counts)
    hurt = write_set(tmp_path / "hurt", counts, lambda i: f"bad {i}" if i % 7 == 0 else f"clip {i}")
    stream = batches(config_of(hurt, max_bad_fraction=0.5), cheap)
    replaced = 0
    for expected, found in zip(take(batches(config_of(good), cheap), 12), take(stream, 12), strict=True):
        bad = [f"{i:06d}" for i in range(48) if i % 7 == 0 and f"{i:06d}" in expected.key]
        assert sorted(each.key for each in found.bad) == bad
        assert {(each.cause, each.detail) for each in found.bad} == {(Cause.CODEC, f"bad {int(k)}") for k in bad}
        for before, after in zip(expected.key, found.key, strict=True):
            assert after == before or before in bad
        # Two slots of one lane are adjacent: the substitute is not one of them.
        assert all(found.key[i] != found.key[i + 1] for i in range(0, 8, 2))
        replaced += len(bad)
    assert replaced == 2 * 7
    figures = stream.figures()
    assert figures["bad"] == {"codec": 14}
    assert figures["bad_share"] == pytest.approx(14 / 96)


def test_figures_include_the_shares_of_sources_and_silent_clips(mixed: StreamConfig) -> None:
    stream = batches(mixed.model_copy(update={"batch_size": 40}), cheap)
    seen = take(stream, 25)
    figures = stream.figures()
    assert figures["samples"] == 1000
    large, small = (figures["source_shares"][f"{i}:{mixed.sources[i].root}"] for i in range(2))
    assert large == pytest.approx(0.75, abs=0.01)
    assert small == pytest.approx(0.25, abs=0.01)
    silent = sum(text.endswith("silent") for batch in seen for text in batch.text)
    assert figures["silent_share"] == pytest.approx(silent / 1000)
    assert 0.15 < figures["silent_share"] < 0.35


def test_too_many_bad_samples_stop_the_run_with_their_list(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", [10] * 4, lambda i: f"bad {i}" if i % 5 == 0 else f"clip {i}")
    stream = batches(config_of(root, max_bad_fraction=0.1, bad_least_samples=24), cheap)
    take_two = [next(stream), next(stream)]  # too few to judge
    assert sum(len(batch.bad) for batch in take_two) > 1
    with pytest.raises(
        TooManyBadSamples, match=r"(?s)of the last 24 samples .*codec.*0000\d\.tar 0000\d\d: codec: bad"
    ):
        for _ in range(5):
            next(stream)
    with pytest.raises(TooManyBadSamples):
        take(batches(config_of(root, max_bad_fraction=0), cheap), 5)


def test_lost_shard_affects_only_its_own_samples(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", [6] * 8)
    expected = take(batches(config_of(root, block_shards=1), cheap), 6)
    (root / "00003.tar").unlink()
    found = take(batches(config_of(root, block_shards=1, max_bad_fraction=1), cheap), 6)
    lost = {f"{i:06d}" for i in range(18, 24)}
    for before, after in zip(expected, found, strict=True):
        assert len(after.bad) == sum(key in lost for key in before.key)
        assert all(b == a or b in lost for b, a in zip(before.key, after.key, strict=True))
        assert {each.cause for each in after.bad} <= {Cause.SHARD_UNREADABLE}
    assert sum(len(batch.bad) for batch in found) == 6


def test_shard_shorter_or_longer_than_its_manifest_is_reported(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", [6] * 4)
    longer = write_set(tmp_path / "longer", [9], first=100)
    content = (root / "00001.tar").read_bytes()
    (root / "00001.tar").write_bytes(content[: len(content) // 2])
    (longer / "00000.tar").replace(root / "00002.tar")
    stream = batches(config_of(root, max_bad_fraction=1), cheap)
    taken = take(stream, 3)
    causes = Counter(each.cause for batch in taken for each in batch.bad)
    assert set(causes) == {Cause.SHARD_TRUNCATED}
    assert stream.figures()["samples_beyond_manifest"] == 3
    assert stream.figures()["members_left_out"] == {"shard_truncated": 1}


def test_no_usable_sample_is_an_error_that_lists_the_attempts(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", [6] * 4, lambda i: "bad")
    for workers in (0, 1):
        with pytest.raises(UserError, match=r"(?s)read for step 0.*bad.*trichord shards verify"):
            take(batches(config_of(root, workers=workers), cheap), 1)


def test_resuming_reads_only_what_it_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_set(tmp_path / "set", [50] * 20)
    config = config_of(root, max_bad_fraction=0)
    reads: list[int] = []
    pread = os.pread
    calls = Counter[str]()

    def counting(raw: RawSample, rng: np.random.Generator) -> Example:
        calls["transform"] += 1
        return cheap(raw, rng)

    monkeypatch.setattr(os, "pread", lambda *given: (reads.append(given[1]), pread(*given))[1])

    def cost(start: int, steps: int) -> float:
        begin = time.process_time()
        take(batches(config, counting, start_step=start), steps)
        return time.process_time() - begin

    cost(0, 1)
    first_reads = len(reads)
    calls.clear()
    reads.clear()
    resume = cost(10_000, 1)
    assert calls["transform"] == 8
    assert len(reads) < 3 * first_reads
    # Reading from the start costs at least this much for 10 000 steps.
    assert resume < 0.02 * (cost(0, 200) / 200 * 10_000)


def test_evaluation_reads_every_sample_once_for_any_number_of_ranks(tmp_path: Path) -> None:
    first = write_set(tmp_path / "first", [5, 0, 9, 7], lambda i: "bad" if i == 6 else f"clip {i}")
    second = write_set(tmp_path / "second", [4], first=100)
    config = config_of(first, second, max_bad_fraction=0.9)
    expected = {f"{i:06d}" for i in (*range(21), *range(100, 104))} - {"000006"}
    pixels: dict[str, bytes] = {}
    together: set[tuple[tuple[int, ...], ...]] = set()
    for ranks, workers in (*ALL_WAYS, (3, 0), (8, 0)):
        by_rank = [
            list(evaluation_batches(config.model_copy(update={"workers": workers}), cheap, rank, ranks))
            for rank in range(ranks)
        ]
        assert len({len(each) for each in by_rank}) == 1
        assert all([batch.step for batch in each] == list(range(len(each))) for each in by_rank)
        all_batches = [batch for each in by_rank for batch in each]
        assert {len(batch.key) for batch in all_batches} == {8}
        together.add(tuple(sorted(tuple(batch.position) for batch in all_batches if batch.position[0] >= 0)))
        rows = [
            (batch.key[i], batch.position[i], batch.video[1][i].numpy().tobytes())
            for batch in all_batches
            for i in range(8)
            if batch.valid[i]
        ]
        assert Counter(key for key, _, _ in rows) == dict.fromkeys(expected, 1)
        assert {position for _, position, _ in rows} == set(range(25)) - {6}
        assert all(pixels.setdefault(key, seen) == seen for key, _, seen in rows)
        assert [each.key for batch in all_batches for each in batch.bad] == ["000006"]
    # Batches have the same samples in the same rows, so that kernels round in the same way.
    (batches,) = together
    assert [place for batch in batches for place in batch] == [*range(25), *[-1] * 7]


def unequal(raw: RawSample, rng: np.random.Generator) -> Example:
    """Return one to three windows, each with the number of the sample, as sliding windows would."""
    number = int(raw.key)
    windows = tuple((float(start), start + 1.0) for start in range(1 + number % 3))
    views = [torch.full((3, 1, 2, 2), number, dtype=torch.uint8) for _ in windows]
    sounds = [torch.full((4,), float(number)) for _ in windows]
    return Example(video=views, audio=sounds, audio_present=True, text="", labels=(), timeline=Timeline(windows))


@pytest.mark.parametrize("workers", [0, 2])
def test_videos_may_have_unequal_numbers_of_windows(tmp_path: Path, workers: int) -> None:
    config = config_of(write_set(tmp_path / "set", [7, 6]), batch_size=4, workers=workers)
    seen = {}
    for batch in evaluation_batches(config, unequal):
        for row in range(4):
            windows = len(batch.timeline[row].clips_s)
            number = int(batch.key[row] or 0)
            assert windows == (1 + number % 3 if batch.valid[row] else 0)
            for given in (*batch.video[:windows], *batch.audio[:windows]):
                assert (given[row] == number).all()
            for empty in (*batch.video[windows:], *batch.audio[windows:]):
                assert not empty[row].any()
            seen[batch.key[row]] = windows
        assert len(batch.video) == len(batch.audio) >= max(len(each.clips_s) for each in batch.timeline)
    assert len(seen) == 14 and sum(seen.values()) == sum(1 + number % 3 for number in range(13))  # one row is padding


def test_wrong_settings_of_evaluation_are_errors(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", [6], lambda i: "bad")
    with pytest.raises(UserError, match="can be used"):
        list(evaluation_batches(config_of(root), cheap))
    with pytest.raises(UserError, match="nothing to evaluate"):
        evaluation_batches(config_of(write_set(tmp_path / "none", [0])), cheap)


def test_remote_shards_yield_the_same_batches_with_and_without_cache(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", [6] * 8)
    expected = take(batches(config_of(root), cheap), 8)
    command = f"pipe:cat {shlex.quote(str(root))}/{{name}}"
    allow_typed([command])
    piped = config_of(command, transfer=TransferPolicy(attempts=1))
    for config in (piped, piped.model_copy(update={"cache_dir": tmp_path / "cache", "workers": 2})):
        for found, wanted in zip(take(batches(config, cheap), 8), expected, strict=True):
            assert_same(found, wanted)
    assert len(list((tmp_path / "cache").rglob("*.tar"))) == 8


def test_manifest_of_remote_shards_may_be_local(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", [6] * 4)
    (root / "manifest.json").rename(tmp_path / "manifest.json")
    source = SourceConfig(root=f"pipe:cat {shlex.quote(str(root))}/{{name}}", manifest=tmp_path)
    allow_typed([source.root])
    config = StreamConfig(sources=(source,), batch_size=4, lanes=4)
    assert len(take(batches(config, cheap), 1)[0].key) == 4


def test_workers_use_one_thread_and_a_batch_may_hold_text_only(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", [6] * 4)
    batch = take(batches(config_of(root, workers=1), count_threads), 1)[0]
    assert batch.text == ["1"] * 8
    assert (batch.video, batch.audio) == ([], [])


def test_a_worker_that_dies_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trichord.shards.reading.stream._POLL_EVERY_S", 0.5)
    root = write_set(tmp_path / "set", [6] * 4)
    begin = time.monotonic()
    with pytest.raises(WorkerDied, match=r"rank 1: worker [01].*exit code 9.*died"):
        take(batches(config_of(root, workers=2), die, rank=1, world_size=2), 1)
    assert time.monotonic() - begin < 60


def test_silent_worker_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trichord.shards.reading.stream._POLL_EVERY_S", 0.2)
    root = write_set(tmp_path / "set", [6] * 4)
    with pytest.raises(WorkerDied, match="rank 0: the data workers return no data"):
        take(batches(config_of(root, workers=1, worker_timeout_s=0.5), sleep_long), 1)


def slowly(raw: RawSample, rng: np.random.Generator) -> Example:
    time.sleep(0.02)
    return cheap(raw, rng)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT])
def test_workers_continue_when_a_cluster_signals_every_process(
    number: signal.Signals, mixed: StreamConfig, wanted: list[Batch]
) -> None:
    others = set(descendants(os.getpid()))  # left by earlier tests
    stream = batches(mixed.model_copy(update={"workers": 2}), slowly)
    found = take_open(stream, 3)
    everyone = [pid for pid in descendants(os.getpid()) if pid not in others]
    assert len(everyone) >= 2
    for pid in everyone:
        subprocess.run(["kill", f"-{number.value}", str(pid)], check=True)  # from outside
    found += take_open(stream, 9)
    for one, other in zip(found, wanted, strict=False):
        assert_same(one, other)
    assert len(found) == 12 and all(map(is_alive, everyone))
    begin = time.monotonic()
    stream.close()
    assert time.monotonic() - begin < 3


def test_busy_workers_do_not_delay_the_exit(tmp_path: Path) -> None:
    """A process that exits with an open stream leaves no worker behind, and does not wait for one to finish."""
    root = write_set(tmp_path / "set", [6] * 4)
    script = f"""
import os, sys
from trichord.shards.reading.stream import batches
from tests.shards.processes import descendants
from tests.shards.reading.test_stream import busy_after_one, config_of
if __name__ == "__main__":
    stream = batches(config_of({str(root)!r}, workers=1), busy_after_one)
    next(stream)
    print(*descendants(os.getpid()), flush=True)
    sys.stdin.readline()
"""
    command, pipe = [sys.executable, "-c", script], subprocess.PIPE
    with subprocess.Popen(command, cwd=Path(__file__).parents[3], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        below = [int(word) for word in process.stdout.readline().split()]
        process.stdin.close()
        process.wait(30)
    assert len(below) >= 2 and seconds_until_gone(below, 15) < 15


def busy_after_one(raw: RawSample, rng: np.random.Generator) -> Example:
    _seen.append(raw.key)
    if len(_seen) > 40:
        time.sleep(600)
    return cheap(raw, rng)


_seen: list[str] = []


def test_programming_error_names_the_sample_and_is_raised(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", [6] * 4)
    with pytest.raises(ZeroDivisionError) as error:
        take(batches(config_of(root), stumble), 1)
    assert any("while reading sample 0000" in note for note in error.value.__notes__)


def test_unequal_shapes_are_named(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", [6] * 4)

    def ragged(raw: RawSample, rng: np.random.Generator) -> Example:
        example = cheap(raw, rng)
        return dataclasses.replace(example, audio=[]) if int(raw.key) % 2 else example

    with pytest.raises(ValueError, match="shapes"):
        take(batches(config_of(root), ragged), 1)


def test_wrong_settings_are_errors_before_any_worker_starts(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", [6] * 4)
    with pytest.raises(UserError, match="lanes=4 cannot be shared"):
        batches(config_of(root, workers=3), cheap)
    with pytest.raises(UserError, match="batch_size=10"):
        batches(config_of(root, batch_size=10, workers=1), cheap)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="pin_memory=true needs a CUDA GPU"):
            batches(config_of(root, pin_memory=True), cheap)
    (root / "manifest.json").unlink()
    with pytest.raises(UserError, match="trichord shards index"):
        batches(config_of(root, workers=1), cheap)


def test_worker_arguments_can_be_pickled_and_files_are_closed(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", [6] * 4)
    config = config_of(root)
    dataset = LaneDataset(config, config.open_sources(), cheap, [[0, 1, 2, 3]], 0)
    again = pickle.loads(pickle.dumps(dataset))
    assert next(iter(again)).key == next(iter(dataset)).key  # type: ignore[union-attr]
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    take(batches(config, cheap), 30)
    after = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    assert after <= before


def test_pickles_and_unsafe_names_are_reported_once(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    with tarfile.open(folder / "0.tar", "w") as tar:
        for i in range(6):
            for name in (f"{i}.mp4", f"{i}.txt", *((f"{i}.pkl", "../x.mp4") if i == 3 else ())):
                info = tarfile.TarInfo(name)
                info.size = 4
                tar.addfile(info, io.BytesIO(b"data"))
    index_shards(folder).save(folder)
    stream = batches(config_of(folder, max_bad_fraction=0), cheap)
    take(stream, 20)
    assert stream.figures()["members_left_out"] == {"pickle_member": 1, "unsafe_name": 1}
    assert stream.figures()["bad"] == {}
