"""The comparisons of a run, the goal of each, and the table of results."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import webdataset

from benchmarks.harness import Beat
from benchmarks.reading import contenders
from benchmarks.reading.comparison import Comparison, Question, compare, is_installed
from benchmarks.reading.footage import (
    FRAMES_PER_SECOND,
    GRAIN,
    GROUPS_OF_PICTURES,
    SECONDS,
    footage_folder,
    make_footage,
)
from benchmarks.reading.steady import memory_growth, stream_cost
from trichord.core.errors import UserError
from trichord.shards.building.encode import Preset
from trichord.shards.building.transcode import Mode, make_medium
from trichord.shards.reading.manifest import index_shards

CONTENDERS: dict[str, type[Any]] = {
    "torchcodec": contenders.Torchcodec,
    "decord": contenders.Decord,
    "pyav": contenders.PyAV,
    "webdataset": contenders.Webdataset,
}
LAST = SECONDS * FRAMES_PER_SECOND - 1
UNIFORM = tuple(int(place) for place in np.linspace(0, LAST, 8).round())
WINDOW_START_S = 4.0
# Frames are equal where both FFmpeg libraries convert colours alike. The swscale of another release, or one without
# SSSE3, is up to 1.05 levels off on average over a plane of a frame; a neighbouring frame is off by at least 2.
FRAMES_APART = (1.5,)
# Log-mel values differ by 0.45 on average (their range is 20): torchcodec starts a range of sound up to 21 microseconds
# off, while ours equals a full decode, as tests/shards/decoding shows.
CHAIN_APART = (*FRAMES_APART, 0.5)
WINDOW = tuple(round((WINDOW_START_S + 2.0 * place / 8) * FRAMES_PER_SECOND) for place in range(8))


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    work: str
    against: str
    ours_ms: float | None = None
    theirs_ms: float | None = None
    ratio: float | None = None
    quartiles: tuple[float, float] | None = None
    goal: float | None = None
    met: bool | None = None
    differs: tuple[float, ...] | None = None  # as in Comparison
    note: str = ""


@dataclass(frozen=True)
class Work:
    """One comparison to make."""

    name: str
    task: str
    questions: list[Question]
    goals: dict[str, float]  # by contender: how many times as fast ours has to be; 0 is no goal
    apart: tuple[float, ...] = (0.0,)  # how much each part of the results may differ for a goal to be met


def bench(
    folder: Path,
    against: Sequence[str],
    rounds: int = 5,
    beat: Beat = lambda: None,
    decodes: int = 20_000,
) -> list[Row]:
    """Run every comparison against the named contenders; a row says where one is not installed."""
    unknown = sorted(set(against) - set(CONTENDERS))
    if unknown:
        raise UserError(f"no contender is called {', '.join(unknown)}; there are {', '.join(CONTENDERS)}")
    make_footage(folder)
    rows = [_preset_row(folder, scene, rounds, beat) for scene in GRAIN]
    for work in _works(folder):
        for name, goal in work.goals.items():
            if name not in against:
                continue
            if not is_installed(CONTENDERS[name]):
                rows.append(
                    Row(work.name, name, goal=goal or None, note="not installed: pip install 'trichord[bench]'")
                )
                continue
            compared = compare(work.task, contenders.OurReader, CONTENDERS[name], work.questions, rounds, beat)
            rows.append(_row(work.name, name, compared, goal, work.apart))
    rows += [_stream_row(folder, workers, rounds, beat) for workers in (0, 1)]
    rows.append(_memory_row(folder, decodes, beat))
    return rows


def as_records(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Return the rows for a table or JSON."""
    return [asdict(row) for row in rows]


def _works(folder: Path) -> Iterator[Work]:
    for scene, group in itertools.product(GRAIN, GROUPS_OF_PICTURES):
        shard = footage_folder(folder, scene, group) / "00000.tar"
        kind = f"{scene}, GOP {group}"
        clips = list(_media(shard))
        whole = {"torchcodec": 1.5, "decord": 0.0, "pyav": 8.0 if group == 12 else 0.0}
        yield Work(f"8 frames of 10 s, {kind}", "frames", [(clip, UNIFORM) for clip in clips], whole, FRAMES_APART)
        goals = {**whole, "torchcodec": 1.4}
        yield Work(f"8 frames of 2 s, {kind}", "frames", [(clip, WINDOW) for clip in clips], goals, FRAMES_APART)
        question = (shard, WINDOW_START_S, WINDOW)
        yield Work(f"tar to frames and log-mel, {kind}", "chain", [question], {"torchcodec": 1.8}, CHAIN_APART)
    shard = footage_folder(folder, "clean", 12) / "00000.tar"
    yield Work("128-mel fbank of 2 s, x20", "fbank", [(_noise(), 20)], {"webdataset": 2.0}, (1e-6,))
    yield Work("tar to members, x20", "walk", [(shard, 20)], {"webdataset": 1.0})


def _media(shard: Path) -> Iterator[bytes]:
    for sample in webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False):
        yield sample["mp4"]


def _noise() -> np.ndarray[Any, Any]:
    return (0.1 * np.random.default_rng(0).standard_normal(32000)).astype(np.float32)


def _encode_for_training(folder: Path, scene: str) -> Path:
    """Re-encode the footage with long groups by the preset of `shards build --mode encode`."""
    target = folder / f"{scene}-encoded"
    if not (target / "manifest.json").exists():
        target.mkdir(parents=True, exist_ok=True)
        with webdataset.TarWriter(str(target / "00000.tar"), encoder=False) as writer:
            for number, data in enumerate(_media(footage_folder(folder, scene, 250) / "00000.tar")):
                medium = make_medium(data, "mp4", Mode.ENCODE, Preset())
                writer.write({"__key__": f"{number:06d}", "mp4": medium.data})
        index_shards(target).save(target)
    return target


def _preset_row(folder: Path, scene: str, rounds: int, beat: Beat) -> Row:
    """Compare our own reader on the original clips of GOP 250 and on the re-encoded ones."""
    places = footage_folder(folder, scene, 250), _encode_for_training(folder, scene)
    before, after = (list(_media(place / "00000.tar")) for place in places)
    size = sum(map(len, after)) / sum(map(len, before))
    questions: list[Question] = [((old, new), UNIFORM) for old, new in zip(before, after, strict=True)]
    compared = compare("frames", _After, _Before, questions, rounds, beat)
    row = _row(f"8 frames of 10 s from the training preset, {scene}", "own reader, GOP 250", compared, 2.5, (math.inf,))
    met = compared.ratio.median >= 2.5 and size <= 1.6
    return replace(row, met=met, note=f"{size:.2f} times the bytes, at most 1.6 wanted")


def _stream_row(folder: Path, workers: int, rounds: int, beat: Beat) -> Row:
    bare_ms, stream_ms = stream_cost(footage_folder(folder, "clean", 12), workers, rounds, beat)
    work = f"stream of clips with {workers} workers" if workers else "stream of clips in one process"
    note = f"{100 * (stream_ms / bare_ms - 1):+.1f} % on top of decoding, less than 10 wanted"
    met = stream_ms < 1.1 * bare_ms
    return Row(work, "bare decoding", round(stream_ms, 2), round(bare_ms, 2), met=met, note=note)


def _memory_row(folder: Path, decodes: int, beat: Beat) -> Row:
    early, late = memory_growth(footage_folder(folder, "clean", 12), decodes, beat)
    note = f"{early:.0f} MB after a tenth of them, {late:.0f} MB at the end; at most 5 % more wanted"
    return Row(f"memory over {decodes} decodes", "its own start", met=late <= 1.05 * early, note=note)


def _row(work: str, against: str, compared: Comparison, goal: float, apart: tuple[float, ...]) -> Row:
    is_same = all(found <= allowed for found, allowed in zip(compared.differs, apart, strict=True))
    return Row(
        work=work,
        against=against,
        ours_ms=round(compared.ours_ms, 2),
        theirs_ms=round(compared.theirs_ms, 2),
        ratio=round(compared.ratio.median, 2),
        quartiles=compared.ratio.quartiles,
        goal=goal or None,
        met=is_same and compared.ratio.median >= goal if goal else None,
        differs=tuple(round(part, 9) for part in compared.differs),
        note="" if is_same else f"the answers differ by more than {apart}: not the same work",
    )


class _Before(contenders.OurReader):
    """Reads the first of a pair of encodings."""

    def frames(self, data: Any, indices: Sequence[int]) -> np.ndarray[Any, Any]:
        return super().frames(data[0], indices)


class _After(contenders.OurReader):
    """Reads the second."""

    def frames(self, data: Any, indices: Sequence[int]) -> np.ndarray[Any, Any]:
        return super().frames(data[1], indices)
