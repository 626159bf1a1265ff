"""What the stream itself costs on top of decoding, and whether a process that decodes for days keeps its size."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from trichord.core.errors import UserError
from trichord.shards.audio.sound_specs import KaldiFbank
from trichord.shards.decoding.decoders import keep_freed_memory
from trichord.shards.decoding.video import open_video
from trichord.shards.reading.archive import open_archive
from trichord.shards.reading.roots import parse_root
from trichord.shards.reading.stream import batches
from trichord.shards.reading.stream_config import SourceConfig, StreamConfig
from trichord.shards.record import RawSample
from trichord.shards.sample import ClipTransform
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.transforms.clip_specs import DenseWindow
from trichord.shards.transforms.view_specs import CentreCrop, ViewSpec, ViewsSpec

BATCH = 4
LOOKS = 50  # at the size of a process while it decodes
TURNS = 4  # through the clips, for one figure


def transform() -> ClipTransform:
    """Give the work of a plain training sample: 8 frames of 2 s at 224, and their sound."""
    view = ViewSpec(crop=CentreCrop(size=224, short_side=224))
    clips = DenseWindow(frames=8, clip_seconds=2.0, placement="uniform")
    return ClipTransform(SampleSpec(views=ViewsSpec(clips=clips, views=(view,)), sound=KaldiFbank(frames=198)))


def raw_samples(folder: Path) -> list[RawSample]:
    """Read a shard's samples into memory."""
    archive = open_archive(parse_root(folder), "00000.tar")
    try:
        return [archive.read(position) for position in range(len(archive))]
    finally:
        archive.close()


def stream_cost(folder: Path, workers: int, rounds: int, beat: Callable[[], None]) -> tuple[float, float]:
    """Give milliseconds a clip, median of rounds, of bare decoding and of the stream.

    Bare decoding is the transform on samples that lie in memory. In one process CPU time is compared; with workers the
    time on the wall, one worker against one bare process, each alone on the machine, in turn.
    """
    keep_freed_memory()  # as workers do, so that both sides have it
    clock = time.perf_counter if workers else time.process_time
    raw, make = raw_samples(folder), transform()
    bare: list[float] = []
    whole: list[float] = []
    for number in range(rounds + 1):
        started = clock()
        for sample in raw * TURNS:
            make(sample, np.random.default_rng(0))
        bare_ms = (clock() - started) / (TURNS * len(raw)) * 1e3
        stream_ms = _stream_lap(folder, workers, make, clock)
        if number:
            bare.append(bare_ms)
            whole.append(stream_ms)
        beat()
    return statistics.median(bare), statistics.median(whole)


def _stream_lap(folder: Path, workers: int, make: ClipTransform, clock: Callable[[], float]) -> float:
    """Time batches of a fresh stream once it runs evenly: what workers had ready in advance is taken away first."""
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
        return (clock() - started) / (2 * TURNS * BATCH) * 1e3
    finally:
        stream.close()


def memory_growth(folder: Path, decodes: int, beat: Callable[[], None]) -> tuple[float, float]:
    """Give the megabytes of a fresh process after a tenth of so many decodes, and after all of them."""
    program = "import benchmarks.reading.steady as steady, sys; steady.print_sizes(sys.argv[1], int(sys.argv[2]))"
    command = [sys.executable, "-c", program, str(folder), str(decodes)]
    sizes: list[float] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            sizes.append(float(line))
            beat()
    if process.returncode or len(sizes) != LOOKS:
        raise UserError(f"decoding {decodes} clips ended with status {process.returncode}; its reason stands above")
    return sizes[LOOKS // 10 - 1], sizes[-1]


def print_sizes(folder: str, decodes: int) -> None:
    """Decode clips over and over in this process, at other places each time, and print its size now and then."""
    keep_freed_memory()
    raw = raw_samples(Path(folder))
    rng = np.random.default_rng(0)
    looks = {round(decodes * (look + 1) / LOOKS) for look in range(LOOKS)}
    for number in range(1, decodes + 1):
        video = open_video(raw[number % len(raw)].video())
        start = int(rng.integers(len(video) - 1))
        video.frames(np.arange(start, start + 2))
        video.sound(0.5, 0.7, 16000)
        if number in looks:
            print(_resident_megabytes(), flush=True)


def _resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6
