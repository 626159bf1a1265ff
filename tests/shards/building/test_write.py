"""Building shards: readable by plain webdataset, the same bytes every time, complete or absent after any failure."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import webdataset

from tests.shards import media
from trichord.core.errors import Cause, UserError
from trichord.shards.building.plan import BuildSummary, ShardSize, SplitSummary, cut
from trichord.shards.building.transcode import Mode, Preset
from trichord.shards.building.write import build
from trichord.shards.layouts.listing import Item, Layout, Listing
from trichord.shards.reading.manifest import Manifest
from trichord.shards.record import Annotation, RawSample

CLIPS = 12


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of twelve clips with edge cases: a dot in a name, commas, an interval beyond the end, no caption."""
    root = tmp_path_factory.mktemp("dataset")
    with (root / "clips.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "caption", "labels", "intervals", "group"])
        for number in range(CLIPS):
            name = f"clip.v{number}.mp4" if number % 2 else f"clip{number}.mp4"
            (root / name).write_bytes(media.clip(25 + number, seed=number, sound=number != 3))
            caption = "" if number == 4 else f"the caption, of clip {number}"
            intervals = json.dumps([["run", 0.2, 9.0], ["run", 8.0, 9.0]]) if number == 5 else ""
            table.writerow([name, caption, "run" if number < 6 else "jump;run", intervals, f"g{number // 2}"])
    return root


def samples_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Read with plain webdataset."""
    shards = sorted(str(path) for path in folder.glob("*.tar"))
    read = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False)
    return {sample["__key__"]: sample for sample in read}


def checksums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.tar"))}


def one(summary: BuildSummary) -> SplitSummary:
    (found,) = summary.splits
    return found


def assert_nothing_looks_complete(folder: Path) -> None:
    """After a failure there is no manifest and no partial file, and every tar has its side file."""
    names = {path.name for path in folder.iterdir()}
    assert "manifest.json" not in names
    assert not [name for name in names if name.endswith(".partial")]
    for path in folder.glob("*.tar"):
        record = json.loads(path.with_suffix(".done.json").read_text())
        assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


# Contents


def test_plain_webdataset_reads_it(dataset: Path, tmp_path: Path) -> None:
    summary = one(build("csv", dataset, tmp_path, samples_per_shard=5, workers=1))
    assert (summary.shards, summary.samples, summary.folder) == (3, CLIPS, tmp_path / "all")
    samples = samples_of(tmp_path / "all")
    assert len(samples) == CLIPS and "clip4" in samples
    assert all("." not in key and "/" not in key for key in samples)
    originals = {path.read_bytes() for path in dataset.glob("*.mp4")}
    assert {sample["mp4"] for sample in samples.values()} == originals
    for key, sample in samples.items():
        document = json.loads(sample["json"])
        source = dataset / document["source"]
        assert source.read_bytes() == sample["mp4"]
        number = int(source.stem.removeprefix("clip").removeprefix(".v"))
        assert document["labels"] == ([1] if number < 6 else [0, 1])
        assert document["group"] == f"g{number // 2}"
        assert document["duration"] == pytest.approx((25 + number) / 25, abs=0.01) and document["fps"] == 25
        assert ("txt" in sample) == (number != 4)
        if number != 4:
            assert sample["txt"].decode() == document["captions"][0] == f"the caption, of clip {number}"
        members = {name: value for name, value in sample.items() if not name.startswith("__")}
        assert RawSample(key, "", members).annotation() == Annotation.model_validate(document)


def test_an_interval_ends_with_its_video(dataset: Path, tmp_path: Path) -> None:
    build("csv", dataset, tmp_path, workers=1)
    documents = [json.loads(sample["json"]) for sample in samples_of(tmp_path / "all").values()]
    (found,) = [document for document in documents if document["intervals"]]
    (interval,) = found["intervals"]
    assert (interval["label"], interval["start"]) == (1, 0.2)
    assert interval["end"] == pytest.approx(30 / 25, abs=0.001)
    assert found["labels"] == [1]


def test_headers_do_not_depend_on_the_user(dataset: Path, tmp_path: Path) -> None:
    build("csv", dataset, tmp_path, workers=1)
    with tarfile.open(tmp_path / "all" / "00000.tar") as archive:
        members = archive.getmembers()
        names = archive.getnames()
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
    assert [name.partition(".")[2] for name in names[:3]] == ["json", "mp4", "txt"]


def test_manifest_lists_the_contents(dataset: Path, tmp_path: Path) -> None:
    build("csv", dataset, tmp_path, samples_per_shard=5, workers=1)
    manifest = Manifest.load(tmp_path / "all")
    assert manifest.classes == ("jump", "run")
    assert {shard.name: shard.sha256 for shard in manifest.shards} == checksums(tmp_path / "all")
    for shard in manifest.shards:
        path = tmp_path / "all" / shard.name
        with tarfile.open(path) as archive:
            keys = {name.partition(".")[0] for name in archive.getnames()}
        assert (shard.samples, shard.bytes) == (len(keys), path.stat().st_size)


@pytest.mark.parametrize("mode", [Mode.COPY, Mode.ENCODE])
def test_bytes_do_not_depend_on_workers_or_repetition(mode: Mode, dataset: Path, tmp_path: Path) -> None:
    preset = Preset(short_side=64)  # with the macroblock tree, which faster settings leave out
    for name, workers in (("one", 1), ("again", 1), ("two", 2), ("four", 4)):
        build("csv", dataset, tmp_path / name, mode=mode, preset=preset, samples_per_shard=3, workers=workers)
    first = checksums(tmp_path / "one" / "all")
    assert len(first) == 4
    assert all(checksums(tmp_path / name / "all") == first for name in ("again", "two", "four"))


def test_order_depends_on_the_seed_alone(dataset: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        build("csv", dataset, tmp_path / name, samples_per_shard=6, workers=1, seed=seed)
    build("csv", dataset, tmp_path / "c", samples_per_shard=6, workers=1, shuffle=False)
    order = {
        name: [json.loads(s["json"])["source"] for s in samples_of(tmp_path / name / "all").values()] for name in "abc"
    }
    with (dataset / "clips.csv").open(newline="") as file:
        listed = [row["path"] for row in csv.DictReader(file)]
    assert order["c"] == listed
    assert len({tuple(found) for found in order.values()}) == 3
    assert {tuple(sorted(found)) for found in order.values()} == {tuple(sorted(listed))}


def test_limit_is_the_number_of_samples(dataset: Path, tmp_path: Path) -> None:
    assert one(build("csv", dataset, tmp_path, limit=5, workers=1)).samples == 5


def items(sizes: list[int], folder: Path) -> list[Item]:
    folder.mkdir()
    made = []
    for number, size in enumerate(sizes):
        path = folder / f"{number}.mp4"
        path.write_bytes(bytes(size))
        made.append(Item(f"k{number:04d}", path, Annotation()))
    return made


@pytest.mark.parametrize(("samples", "expected"), [(1, [1] * 7), (3, [2, 3, 2]), (4, [4, 3]), (7, [7]), (100, [7])])
def test_shards_by_number_of_samples_are_even(samples: int, expected: list[int], tmp_path: Path) -> None:
    found = cut(items([9] * 7, tmp_path / "v"), ShardSize(samples=samples), Mode.COPY, Preset(), None, None)
    lengths = [len(shard) for shard in found]
    assert sorted(lengths) == sorted(expected) and max(lengths) <= samples
    assert [item.key for shard in found for item in shard] == [f"k{number:04d}" for number in range(7)]


def test_shards_by_number_of_bytes_are_even(tmp_path: Path) -> None:
    sizes = np.random.default_rng(0).integers(1000, 9000, 200).tolist()
    found = cut(items(sizes, tmp_path / "v"), ShardSize(bytes=50_000), Mode.COPY, Preset(), 3, None)
    weights = [sum(item.path.stat().st_size for item in shard) for shard in found]
    assert len(found) == int(np.ceil(sum(sizes) / 50_000))
    assert max(weights) < 50_000 + 9000 and min(weights) > 50_000 - 2 * 9000


def test_target_size_is_that_after_encoding(dataset: Path, tmp_path: Path) -> None:
    """The target size is that of the output, and encoding to 16 lines yields far less than the input."""
    preset = Preset(short_side=16, crf=40)
    whole = one(build("csv", dataset, tmp_path / "whole", mode="encode", preset=preset, workers=1)).bytes
    target = whole // 3
    cut_up = one(
        build("csv", dataset, tmp_path / "cut", mode="encode", preset=preset, workers=1, bytes_per_shard=target)
    )
    assert 2 <= cut_up.shards <= 5
    assert max(path.stat().st_size for path in cut_up.folder.glob("*.tar")) < 1.6 * target


def test_part_of_a_longer_source_is_cut_out(dataset: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    source = media.encode(media.moving_picture(100), media.tone(4.0), options={"g": "100"})
    (root / "long.mp4").write_bytes(source)
    (root / "clips.csv").write_text("path,start,end\nlong.mp4,1.0,2.0\nlong.mp4,2.0,\n")
    build("csv", root, tmp_path / "out", workers=1)
    expected = media.full_decode(source).astype(int)
    for sample in samples_of(tmp_path / "out" / "all").values():
        document = json.loads(sample["json"])
        first, last = round(document["start"] * 25), round(document.get("end", 4.0) * 25)
        frames_THWC = media.full_decode(sample["mp4"]).astype(int)
        assert frames_THWC.shape == expected[first:last].shape
        assert np.abs(frames_THWC - expected[first:last]).mean() < 12
        assert document["duration"] == pytest.approx((last - first) / 25, abs=0.01)


def test_volumes_are_lossless_in_every_mode(tmp_path: Path) -> None:
    volumes_NDHW = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 28), dtype=np.uint8)
    labels = np.array([[2], [0], [1]], np.uint8)
    np.savez(tmp_path / "fracturemnist3d.npz", test_images=volumes_NDHW, test_labels=labels)
    for mode in Mode:
        build(
            "medmnist3d",
            tmp_path,
            tmp_path / mode,
            mode=mode,
            workers=2 if mode is Mode.ENCODE else 1,
            samples_per_shard=2,
        )
        samples = samples_of(tmp_path / mode / "test")
        for number, volume_DHW in enumerate(volumes_NDHW):
            sample = samples[f"fracturemnist3d_test_{number:05d}"]
            frames_THWC = media.full_decode(sample["mp4"])
            np.testing.assert_array_equal(frames_THWC, np.repeat(volume_DHW[..., None], 3, axis=-1))
            assert json.loads(sample["json"])["labels"] == [int(labels[number, 0])]


# Starting again


def test_restart_writes_only_missing_shards(dataset: Path, tmp_path: Path) -> None:
    first = one(build("csv", dataset, tmp_path, samples_per_shard=4, workers=1))
    folder, before = first.folder, checksums(first.folder)
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    (folder / "00001.tar").unlink()
    (folder / "00002.done.json").unlink()
    (folder / "manifest.json").unlink()
    for name in (".00001.tar.elsewhere-7-7-0.partial", ".00009.tar.elsewhere-7-7-0.partial"):
        (folder / name).write_bytes(b"left by a crash")
    again = one(build("csv", dataset, tmp_path, samples_per_shard=4, workers=1))
    assert (first.reused_shards, again.reused_shards, again.shards) == (0, 1, 3)
    assert checksums(folder) == before
    assert (folder / "00000.tar").stat().st_mtime_ns == times["00000.tar"]
    assert (folder / "00002.tar").stat().st_mtime_ns != times["00002.tar"]
    assert Manifest.load(folder).samples == CLIPS
    assert not list(folder.glob("*.partial"))
    assert one(build("csv", dataset, tmp_path, samples_per_shard=4, workers=1)).reused_shards == 3


def test_truncated_tar_is_rewritten(dataset: Path, tmp_path: Path) -> None:
    folder = one(build("csv", dataset, tmp_path, samples_per_shard=6, workers=1)).folder
    before = checksums(folder)
    whole = (folder / "00000.tar").read_bytes()
    (folder / "00000.tar").write_bytes(whole[:-1024])
    assert one(build("csv", dataset, tmp_path, samples_per_shard=6, workers=1)).reused_shards == 1
    assert checksums(folder) == before


@pytest.mark.parametrize(
    "change", [{"mode": "encode"}, {"seed": 5}, {"samples_per_shard": 6}, {"mode": "remux"}, {"limit": 11}]
)
def test_changed_option_rebuilds_everything(change: dict[str, Any], dataset: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"samples_per_shard": 4, "workers": 1, "preset": Preset(speed="ultrafast")}
    build("csv", dataset, tmp_path / "both", **options)
    again = one(build("csv", dataset, tmp_path / "both", **{**options, **change}))
    fresh = one(build("csv", dataset, tmp_path / "fresh", **{**options, **change}))
    assert again.reused_shards == 0 or "limit" in change  # which may leave the clips of a shard unchanged
    assert checksums(again.folder) == checksums(fresh.folder)
    assert {path.name for path in again.folder.iterdir()} == {path.name for path in fresh.folder.iterdir()}


def test_changed_source_rebuilds_its_shard(tmp_path: Path) -> None:
    for number in range(4):
        path = tmp_path / "root" / "run" / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(media.clip(10, seed=number))
    build("folder", tmp_path / "root", tmp_path / "out", samples_per_shard=1, workers=1)
    path.write_bytes(media.clip(10, seed=99))
    assert one(build("folder", tmp_path / "root", tmp_path / "out", samples_per_shard=1, workers=1)).reused_shards == 3
    assert path.read_bytes() in {sample["mp4"] for sample in samples_of(tmp_path / "out" / "all").values()}


def test_foreign_shards_are_not_touched(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "00000.tar").write_bytes(b"someone's")
    with pytest.raises(UserError, match="contains shards that were not built here"):
        build("csv", dataset, tmp_path, workers=1)
    assert (tmp_path / "all" / "00000.tar").read_bytes() == b"someone's"


# Failures


class Scripted(Layout):
    """A layout with items from a test, some of which fail when they are loaded."""

    name = "scripted"
    expects = "nothing"
    harm: int = -1

    def splits(self, root: Path) -> tuple[str, ...]:
        return ("all",)

    def list_split(self, root: Path, split: str) -> Listing:
        paths = sorted(root.glob("*.mp4"))
        loads = [partial(os._exit, 3) if number == self.harm else path.read_bytes for number, path in enumerate(paths)]
        made = [
            Item(f"k{n}", path, Annotation(), load) for n, (path, load) in enumerate(zip(paths, loads, strict=True))
        ]
        return Listing((), made)


def scripted(monkeypatch: pytest.MonkeyPatch, harm: int) -> None:
    monkeypatch.setattr("trichord.shards.building.plan.open_layout", lambda name, options: Scripted(harm=harm))


def test_killed_worker_leaves_nothing_that_looks_complete(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, harm=7)
    with pytest.raises(UserError, match=r"(?s)A worker process died .*memory.* --workers"):
        build("scripted", dataset, tmp_path / "out", samples_per_shard=2, workers=2, shuffle=False)
    assert_nothing_looks_complete(tmp_path / "out" / "all")
    scripted(monkeypatch, harm=-1)
    for name in ("out", "fresh"):
        build("scripted", dataset, tmp_path / name, samples_per_shard=2, workers=2, shuffle=False)
    assert checksums(tmp_path / "out" / "all") == checksums(tmp_path / "fresh" / "all")


@pytest.fixture
def small_files() -> Iterator[None]:
    """Limit the files of this process to 150 kB: the system refuses larger writes as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_leaves_nothing_that_looks_complete(dataset: Path, tmp_path: Path, small_files: None) -> None:
    with pytest.raises(UserError, match=r"(?s)Cannot write to .*File too large.*run the same command once more"):
        build("csv", dataset, tmp_path / "out", workers=1)
    assert_nothing_looks_complete(tmp_path / "out" / "all")
    assert not list((tmp_path / "out" / "all").glob("*.tar"))
    assert one(build("csv", dataset, tmp_path / "out", workers=1, samples_per_shard=1)).samples == CLIPS


def test_killed_build_resumes_to_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; from trichord.shards.building.write import build\n"
        f"build('csv', Path({str(dataset)!r}), Path({str(tmp_path / 'out')!r}), samples_per_shard=1, workers=1,\n"
        "      mode='encode')\n"
    )
    folder = tmp_path / "out" / "all"
    started = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[3]) as process:
        while not list(folder.glob("*.tar")) and process.poll() is None and time.monotonic() - started < 60:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    left = list(folder.glob("*.tar"))
    for path in left:
        with tarfile.open(path) as archive:  # raises if a tar is truncated
            assert archive.getnames()
    assert not (folder / "manifest.json").exists()
    again = one(build("csv", dataset, tmp_path / "out", samples_per_shard=1, workers=1, mode="encode"))
    assert again.samples == CLIPS and 1 <= again.reused_shards < CLIPS
    build("csv", dataset, tmp_path / "fresh", samples_per_shard=1, workers=1, mode="encode")
    assert checksums(folder) == checksums(tmp_path / "fresh" / "all")


def bad_dataset(root: Path, good: int) -> None:
    folder = root / "run"
    folder.mkdir(parents=True)
    for number in range(good):
        (folder / f"good{number}.mp4").write_bytes(media.clip(5, seed=number))
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "noise.mp4").write_bytes(b"noise" * 100)


def test_bad_videos_are_skipped_and_named(tmp_path: Path) -> None:
    bad_dataset(tmp_path / "root", good=8)
    summary = one(build("folder", tmp_path / "root", tmp_path / "out", max_bad_fraction=0.2, workers=1))
    expected = {("run/empty.mp4", Cause.EMPTY), ("run/noise.mp4", Cause.UNREADABLE_VIDEO)}
    assert {(each.source, each.cause) for each in summary.skipped} == expected
    assert summary.samples == len(samples_of(summary.folder)) == Manifest.load(summary.folder).samples == 8
    side = json.loads((summary.folder / "00000.done.json").read_text())
    assert {(each["source"], each["cause"]) for each in side["skipped"]} == expected
    report = json.loads((summary.folder / "build.json").read_text())
    assert report["finished"] and len(report["skipped"]) == 2
    assert BuildSummary(splits=(summary,)).rows()[0]["skipped"] == "empty: 1, unreadable_video: 1"
    again = one(build("folder", tmp_path / "root", tmp_path / "out", max_bad_fraction=0.2, workers=1))
    assert again.skipped == summary.skipped, "a restart that skips a shard still reports what it lacks"


def test_too_many_bad_videos_stop_the_build_with_their_names(tmp_path: Path) -> None:
    bad_dataset(tmp_path / "root", good=8)
    with pytest.raises(UserError) as caught:
        build("folder", tmp_path / "root", tmp_path / "out", workers=1)
    message = str(caught.value)
    assert "2 of the 10 clips of split 'all' cannot be used (empty: 1, unreadable_video: 1)" in message
    assert "the limit is 5.0%" in message
    assert "run/noise.mp4" in message and "--max-bad-fraction" in message
    assert_nothing_looks_complete(tmp_path / "out" / "all")


def test_a_shard_without_a_usable_clip_leaves_no_tar(tmp_path: Path) -> None:
    bad_dataset(tmp_path / "root", good=2)
    options: dict[str, Any] = {"samples_per_shard": 1, "workers": 1, "max_bad_fraction": 0.5}
    summary = one(build("folder", tmp_path / "root", tmp_path / "out", **options))
    assert (summary.shards, summary.samples) == (2, 2)
    assert {shard.name for shard in Manifest.load(summary.folder).shards} == set(checksums(summary.folder))
    assert one(build("folder", tmp_path / "root", tmp_path / "out", **options)).reused_shards == 4


def test_missing_files_are_counted_named_and_bounded(dataset: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "there.mp4").write_bytes(media.clip(5))
    (root / "clips.csv").write_text("path\nthere.mp4\ngone.mp4\n")
    with pytest.raises(UserError) as caught:
        build("csv", root, tmp_path / "out", workers=1)
    message = str(caught.value)
    assert "1 of the 2 files listed for split 'all'" in message and "gone.mp4" in message
    assert message.endswith("--max-missing-fraction 0.51")
    summary = one(build("csv", root, tmp_path / "out", workers=1, max_missing_fraction=0.51))
    assert (summary.samples, summary.missing) == (1, ("gone.mp4",))
    assert json.loads((tmp_path / "out" / "all" / "build.json").read_text())["missing"] == ["gone.mp4"]


def test_group_in_two_splits_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(media.clip(5))
    rows = "path,group,split\na.mp4,film 1,train\na.mp4,film 2,train\na.mp4,film 2,test\na.mp4,,test\n"
    (tmp_path / "clips.csv").write_text(rows)
    for chosen in (None, ["train"]):  # also when only one split is built, because the other may follow later
        with pytest.raises(UserError, match=r"1 group is in more than one split:\n  film 2: test, train"):
            build("csv", tmp_path, tmp_path / "out", splits=chosen, workers=1)
    assert not (tmp_path / "out").exists()


def test_all_splits_are_built_by_default(tmp_path: Path) -> None:
    for name in ("train/run/1.mp4", "val/run/2.mp4"):
        (tmp_path / "root" / name).parent.mkdir(parents=True)
        (tmp_path / "root" / name).write_bytes(media.clip(5))
    build("folder", tmp_path / "root", tmp_path / "all", workers=1)
    build("folder", tmp_path / "root", tmp_path / "some", splits=["val"], workers=1)
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["train", "val"]
    assert sorted(path.name for path in (tmp_path / "some").iterdir()) == ["val"]
    with pytest.raises(UserError, match="has no split 'test'"):
        build("folder", tmp_path / "root", tmp_path / "none", splits=["test"], workers=1)


def test_wrong_root_or_size_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)does not exist. The layout ucf101 expects:\n  ROOT/ucfTrainTestlist"):
        build("ucf101", tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.mp4").write_bytes(media.clip(5))
    with pytest.raises(UserError, match="--samples-per-shard -1: expected 1 or more"):
        build("folder", tmp_path, tmp_path / "out", samples_per_shard=-1)


def test_encoded_clips_are_readable_by_any_decoder(dataset: Path, tmp_path: Path) -> None:
    """The preset end to end: small files, short groups, and sound where the source has sound."""
    build("csv", dataset, tmp_path, mode="encode", preset=Preset(short_side=32, gop=8), workers=2, samples_per_shard=6)
    silent = 0
    for sample in samples_of(tmp_path / "all").values():
        with av.open(io.BytesIO(sample["mp4"])) as file:
            silent += not file.streams.audio
            packets = [packet for packet in file.demux(video=0) if packet.size]
            assert max(np.diff(np.flatnonzero([packet.is_keyframe for packet in packets]))) <= 8
            assert file.streams.video[0].codec_context.height == 32
    assert silent == 1
