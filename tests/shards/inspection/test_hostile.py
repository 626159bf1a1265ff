"""Hostile samples are read to the end in training, in evaluation and by verify: no crash, no hang, each under its
own cause, and the good samples among them are unchanged."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.shards import media
from tests.shards.inspection import hostile
from tests.warm import HANGS_AFTER_S
from trichord.core.errors import Cause, SampleError
from trichord.core.seeds import generator
from trichord.shards.decoding.track import DecodeLimits
from trichord.shards.decoding.video import open_video
from trichord.shards.inspection.verify import verify
from trichord.shards.inspection.verify_report import check_clip
from trichord.shards.reading.archive import open_archive
from trichord.shards.reading.batch import Batch, Example
from trichord.shards.reading.evaluation import evaluation_batches
from trichord.shards.reading.manifest import index_shards
from trichord.shards.reading.root import parse_root
from trichord.shards.reading.stream import batches
from trichord.shards.reading.stream_config import SourceConfig, StreamConfig
from trichord.shards.record import RawSample
from trichord.shards.transforms.clip_specs import Segments
from trichord.shards.transforms.crops import CentreCrop
from trichord.shards.transforms.view_specs import ViewSpec
from trichord.shards.transforms.views import view_from

LIMITS = DecodeLimits(max_packets=20_000, timeout_s=1.0)
FRAMES, SIZE, RATE = 4, 32, 8000


def decode(raw: RawSample, rng: np.random.Generator) -> Example:
    """Four frames at random times of four segments, and half a second of sound from their middle."""
    annotation = raw.annotation()
    video = open_video(raw.video(), LIMITS)
    (clip,) = Segments(frames=FRAMES).plan(video.times_s, video.duration_s, rng)
    view = view_from(ViewSpec(crop=CentreCrop(size=SIZE, short_side=SIZE)), video.frames(clip.indices), rng)
    sound_N = video.sound(0.0, 0.5, RATE)
    return Example(
        video=[view],
        audio=[torch.zeros(RATE // 2) if sound_N is None else torch.from_numpy(sound_N)],
        audio_present=sound_N is not None,
        text=annotation.captions[0] if annotation.captions else "",
        labels=annotation.labels,
    )


@dataclass(frozen=True)
class HostileSet:
    """The folder, its bad samples (key to cause), its lost samples, and the good samples from a clean folder."""

    root: Path
    clean: dict[str, RawSample]
    bad: dict[str, Cause]
    left_out: Counter[str]
    lost: dict[str, tuple[Cause, int]]  # by shard: why it loses samples, and how many
    trap: Path


@pytest.fixture(scope="module")
def hostile_set(tmp_path_factory: pytest.TempPathFactory) -> HostileSet:
    folder = tmp_path_factory.mktemp("hostile")
    root, secret, trap = folder / "set", folder / "secret.ts", folder / "trap"
    root.mkdir()
    secret.write_bytes(media.clip(5))
    special = hostile.samples(secret, trap)
    good = {f"good_{number:02d}": hostile.good_clip(number) for number in range(16)}
    keys = list(good)

    mixed: dict[str, dict[str, bytes]] = {}  # every hostile sample is between good ones
    for number, (key, sample) in enumerate(special.items()):
        mixed[key] = sample.members
        if number % 4 == 0:
            mixed[keys[number // 4]] = good[keys[number // 4]]
    hostile.write_tar(root / "00.tar", hostile.named(mixed))
    ordinary = good["good_00"]["mp4"]
    names = [
        ("../../outside.mp4", ordinary),
        (str(folder / "absolute.mp4"), ordinary),
        *hostile.named({key: good[key] for key in keys[6:8]}),
        ("a/../../b.mp4", ordinary),
        *hostile.named({keys[8]: good[keys[8]]}),
        *hostile.named({keys[6]: good[keys[9]]}),  # a duplicate key with other content
        ("twice.mp4", ordinary),
        ("twice.mp4", good[keys[9]]["mp4"]),
    ]
    hostile.write_tar(root / "01.tar", names, link=str(secret))
    for name, some in (("02", keys[9:13]), ("03", keys[13:15]), ("04", keys[15:])):
        hostile.write_tar(root / f"{name}.tar", hostile.named({key: good[key] for key in some}))
    index_shards(root).save(root)
    hostile.cut_in_half(root / "02.tar")
    (root / "03.tar").write_bytes(b"")
    (root / "04.tar").write_bytes(b"This is no archive at all. " * 100)

    survivors = open_archive(parse_root(root), "02.tar").keys
    assert 0 < len(survivors) < 4
    clean = {key: RawSample(key, "", members) for key, members in good.items() if key in (*keys[:9], *survivors)}
    clean |= {key: RawSample(key, "", each.members) for key, each in special.items() if each.cause is None}
    clean["pickle_beside"] = RawSample("pickle_beside", "", {"mp4": special["pickle_beside"].members["mp4"]})
    clean["twice"] = RawSample("twice", "", {"mp4": ordinary})
    return HostileSet(
        root,
        clean,
        {key: sample.cause for key, sample in special.items() if sample.cause is not None},
        Counter(unsafe_name=3, duplicate_key=2, pickle_member=2),
        {
            "02.tar": (Cause.SHARD_TRUNCATED, 4 - len(survivors)),
            "03.tar": (Cause.SHARD_TRUNCATED, 2),
            "04.tar": (Cause.SHARD_UNREADABLE, 1),
        },
        trap,
    )


@pytest.fixture(autouse=True)
def _no_hang_and_nothing_executed(hostile_set: HostileSet) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < HANGS_AFTER_S
    assert not hostile_set.trap.exists()
    assert not (hostile_set.root.parent / "outside.mp4").exists()


def config_of(hostile_set: HostileSet, workers: int) -> StreamConfig:
    return StreamConfig(
        sources=(SourceConfig(root=str(hostile_set.root)),),
        batch_size=8,
        lanes=2,
        workers=workers,
        seed=5,
        max_bad_fraction=1.0,
        worker_timeout_s=HANGS_AFTER_S,
    )


def assert_is_clean(batch: Batch, place: int, expected: Example) -> None:
    assert torch.equal(batch.video[0][place], expected.video[0])
    assert torch.equal(batch.audio[0][place], expected.audio[0])
    assert bool(batch.audio_present[place]) == expected.audio_present
    assert (batch.text[place], batch.labels[place]) == (expected.text, expected.labels)


def assert_bad_are_named(hostile_set: HostileSet, given: list[Batch]) -> None:
    """Every bad sample is counted under its own cause, every lost one under that of its shard, and nothing else."""
    bad = {(each.shard, each.key): each.cause for batch in given for each in batch.bad}
    lost = Counter(shard for shard, key in bad if key.startswith("(sample"))
    assert {key: cause for (_, key), cause in bad.items() if not key.startswith("(sample")} == hostile_set.bad
    assert lost == {shard: count for shard, (_, count) in hostile_set.lost.items()}
    assert all(bad[shard, key] == hostile_set.lost[shard][0] for shard, key in bad if key.startswith("(sample"))
    left_out = {each for batch in given for each in batch.left_out}
    counted = Counter(each.cause.value for each in left_out)
    # Truncated shards are named once; an unreadable one is not an archive that could skip a member.
    assert {cause: counted[cause] for cause in hostile_set.left_out} == hostile_set.left_out


@pytest.mark.parametrize("workers", [0, 2])
def test_training_continues_with_hostile_samples(hostile_set: HostileSet, workers: int) -> None:
    stream = batches(config_of(hostile_set, workers), decode)
    promised = (
        sum(entry.samples for entry in index_shards(hostile_set.root).shards) + 8
    )  # including what the broken shards lost
    given = list(itertools.islice(stream, 3 * promised // 16))
    stream.close()
    seen = set()
    for batch in given:
        assert bool(batch.valid.all())
        for place, key in enumerate(batch.key):
            seen.add(key)
            assert_is_clean(batch, place, decode(hostile_set.clean[key], generator(5, "augment", batch.step, key)))
    assert seen == set(hostile_set.clean)
    assert_bad_are_named(hostile_set, given)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_reads_to_the_end_with_hostile_samples(hostile_set: HostileSet, workers: int) -> None:
    given = list(evaluation_batches(config_of(hostile_set, workers), decode))
    seen: Counter[str] = Counter()
    for batch in given:
        for place in torch.nonzero(batch.valid).flatten().tolist():
            key = batch.key[place]
            seen[key] += 1
            assert_is_clean(batch, place, decode(hostile_set.clean[key], generator(5, "evaluate", key)))
    assert seen == Counter(dict.fromkeys(hostile_set.clean, 1))
    assert_bad_are_named(hostile_set, given)


@pytest.mark.parametrize("workers", [1, 2])
def test_verify_counts_each_under_its_cause(hostile_set: HostileSet, workers: int) -> None:
    report = verify(hostile_set.root, workers=workers, limits=LIMITS)
    expected = Counter(cause.value for cause in hostile_set.bad.values()) + hostile_set.left_out
    for cause, count in hostile_set.lost.values():
        expected[cause.value] += count
    assert Counter({cause.value: count for cause, count in report.bad.items()}) == expected
    assert {each.key: each.cause for each in report.findings if each.key in hostile_set.bad} == hostile_set.bad
    assert report.good == len(hostile_set.clean)
    assert report.exit_code == 1
    assert {line.split(":")[0] for line in report.disagreements} == {"02.tar", "03.tar", "04.tar"}


def test_a_sample_cannot_make_the_decoder_read_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret.ts"
    secret.write_bytes(media.encode(media.moving_picture(5), container="mpegts"))
    monkeypatch.chdir(tmp_path)
    for text in (hostile.PLAYLIST.format(secret), "ffconcat version 1.0\nfile secret.ts\n"):
        with pytest.raises(SampleError) as error:
            open_video(text.encode())
        assert error.value.cause is Cause.UNREADABLE_VIDEO


def test_sound_track_without_a_rate_is_an_error_of_the_sound() -> None:
    data = media.clip(6)
    rate = data.index(b"mp4a", data.index(b"stsd", data.index(b"smhd"))) + 4 + 24
    video = open_video(data[:rate] + b"\0\0" + data[rate + 2 :])
    assert len(video.frames([0, 5])) == 2
    with pytest.raises(SampleError) as error:
        video.sound(0.0, 0.1, RATE)
    assert error.value.cause is Cause.AUDIO


def test_flipped_bytes_in_a_clip_cause_at_most_a_sample_error() -> None:
    rng = generator(1, "flips")
    plain = media.clip(6)
    kinds = [plain, media.encode(media.moving_picture(6), media.tone(0.25), container="matroska")]
    table = plain.index(b"moov")
    outcomes: Counter[str] = Counter()
    for number in range(300):
        data = bytearray(kinds[number % 4 == 3])
        low = table if number % 4 == 0 else 0  # a quarter of the damage is in the tables, where it does most harm
        for place in rng.integers(low, len(data), int(rng.integers(1, 12))).tolist():
            data[place] = int(rng.integers(256))
        raw = RawSample("flipped", "shard", {"mp4": bytes(data)})
        for work in (lambda raw=raw: check_clip(raw, LIMITS), lambda raw=raw: decode(raw, generator(0))):
            try:
                work()
                outcomes["read"] += 1
            except SampleError as error:
                outcomes[error.cause.value] += 1
    assert outcomes["read"] > 50 and sum(outcomes.values()) - outcomes["read"] > 50


def test_flipped_bytes_in_an_archive_cause_at_most_a_sample_error(tmp_path: Path) -> None:
    rng = generator(2, "flips")
    path = tmp_path / "00.tar"
    members = {f"{number:03d}": {"mp4": b"v" * 700, "txt": b"words", "json": b"{}"} for number in range(6)}
    hostile.write_tar(path, hostile.named(members))
    whole = path.read_bytes()
    root = parse_root(tmp_path)
    samples = 0
    for _ in range(300):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), int(rng.integers(1, 40))).tolist():
            data[place] = int(rng.integers(256))
        path.write_bytes(data)
        archive = open_archive(root, path.name)
        for position in range(len(archive)):
            try:
                archive.read(position).annotation()
                samples += 1
            except SampleError as error:
                assert error.cause in (Cause.BAD_JSON, Cause.BAD_TEXT, Cause.EMPTY)
        archive.close()
    assert samples > 100
