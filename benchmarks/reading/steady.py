"""What the stream costs on top of decoding, and whether the memory of a process grows over many decodes."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.harness import Beat, take_turns, timed
from benchmarks.processes import memory_mib, run_alone
from trichord.shards.audio.sound_specs import KaldiFbank
from trichord.shards.decoding.decoders import keep_freed_memory
from trichord.shards.decoding.video import open_video
from trichord.shards.reading.archive import open_archive
from trichord.shards.reading.root import parse_root
from trichord.shards.reading.stream import batches
from trichord.shards.reading.stream_config import SourceConfig, StreamConfig
from trichord.shards.record import RawSample
from trichord.shards.sample import ClipTransform
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.transforms.clip_specs import DenseWindow
from trichord.shards.transforms.crops import CentreCrop
from trichord.shards.transforms.view_specs import ViewSpec, ViewsSpec

BATCH = 4
READINGS = 50  # of the size of a process while it decodes
TURNS = 4  # passes over the clips, for one figure


def transform() -> ClipTransform:
    """Return the transform of a plain training sample: 8 frames of 2 s at 224, and their sound."""
    view = ViewSpec(crop=CentreCrop(size=224, short_side=224))
    clips = DenseWindow(frames=8, clip_seconds=2.0, placement="uniform")
    return ClipTransform(SampleSpec(views=ViewsSpec(clips=clips, views=(view,)), sound=KaldiFbank(frames=198)))


def raw_samples(folder: Path) -> list[RawSample]:
    """Read the samples of a shard into memory."""
    archive = open_archive(parse_root(folder), "00000.tar")
    try:
        return [archive.read(position) for position in range(len(archive))]
    finally:
        archive.close()


def stream_cost(folder: Path, workers: int, rounds: int, beat: Beat) -> tuple[float, float]:
    """Return the milliseconds per clip, median of the rounds, of bare decoding and of the stream.

    Bare decoding is the transform on samples in memory. In one process, CPU time is compared; with workers, wall-clock
    time: one worker against one bare process, in turn, each alone on the machine.
    """
    keep_freed_memory()  # as workers do, so that both sides have it
    clock = time.perf_counter if workers else time.process_time
    raw, make = raw_samples(folder), transform()

    def decode() -> None:
        for sample in raw * TURNS:
            make(sample, np.random.default_rng(0))

    def lap(name: str, _: None) -> tuple[float, None]:
        if name == "stream":
            return _stream_s(folder, workers, make, clock), None
        return timed(decode, clock)[0] / (TURNS * len(raw)), None

    seconds = take_turns(("bare", "stream"), [None], rounds, lap, beat).seconds
    return statistics.median(seconds["bare"]) * 1e3, statistics.median(seconds["stream"]) * 1e3


def _stream_s(folder: Path, workers: int, make: ClipTransform, clock: Callable[[], float]) -> float:
    """Return the seconds per clip of a fresh stream, after the batches that its workers prepare in advance."""
    config = StreamConfig(
        sources=(SourceConfig(root=str(folder)),), batch_size=BATCH, lanes=1, workers=workers, block_shards=1
    )
    stream = batches(config, make)
    try:
        for _ in range(2 + 3 * workers):
            next(stream)
        started = clock()
        for _ in range(2 * TURNS):
            next(stream)
        return (clock() - started) / (2 * TURNS * BATCH)
    finally:
        stream.close()


def memory_growth(folder: Path, decodes: int, beat: Beat) -> tuple[float, float]:
    """Return the megabytes of a fresh process after a tenth of the decodes, and after all of them."""
    printed = run_alone("decoder", "benchmarks.reading.steady", str(folder), str(decodes), beat=beat)
    return float(printed[READINGS // 10 - 1]), float(printed[-1])


def main(folder: str, decodes: int) -> None:
    """Decode clips over and over in this process, at different places, and print its size at regular intervals."""
    keep_freed_memory()
    raw = raw_samples(Path(folder))
    rng = np.random.default_rng(0)
    readings = {round(decodes * (reading + 1) / READINGS) for reading in range(READINGS)}
    for number in range(1, decodes + 1):
        video = open_video(raw[number % len(raw)].video())
        start = int(rng.integers(len(video) - 1))
        video.frames(np.arange(start, start + 2))
        video.sound(0.5, 0.7, 16000)
        if number in readings:
            print(memory_mib("VmRSS") * 2**20 / 1e6)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
