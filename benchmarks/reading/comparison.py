"""Compares two readers on the same work, each in its own process: CPU time, and how much their results differ.

The CPU time is that of all threads of the process, so that ratios repeat on a machine with other load. The two readers
take turns clip by clip.
"""

from __future__ import annotations

import importlib.util
import statistics
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Beat, Ratio, take_turns, timed
from benchmarks.processes import Lap, RemoteContender
from trichord.core.errors import UserError
from trichord.core.processes import worker_context

Answer = list[np.ndarray[Any, Any]]
Question = tuple[Any, ...]  # the arguments of a task


@dataclass(frozen=True)
class Comparison:
    """The result of comparing two readers."""

    ours_ms: float  # median CPU time of one question
    theirs_ms: float
    ratio: Ratio
    # Of each part of the answers: the largest mean absolute difference over the last two axes, such as the rows and
    # columns of a frame.
    differs: tuple[float, ...]


def frames(reader: Any, data: bytes, indices: Sequence[int]) -> Answer:
    """Decode the bytes of an mp4 to 8 x 3 x 224 x 224 uint8."""
    return [reader.frames(data, indices)]


def fbank(reader: Any, samples_N: np.ndarray[Any, Any], repeats: int) -> Answer:
    """Compute the log-mel spectrogram of two seconds of sound, several times, so that the time is measurable."""
    for _ in range(repeats - 1):
        reader.fbank(samples_N)
    return [reader.fbank(samples_N)]


def walk(reader: Any, shard: Path, repeats: int) -> Answer:
    """Read the bytes of every member; return a checksum of each clip of the last pass."""
    for _ in range(repeats):
        media = [members["mp4"] for members in reader.members(shard)]
    return [np.array([zlib.crc32(data) for data in media])]


def chain(reader: Any, shard: Path, start_s: float, indices: Sequence[int]) -> Answer:
    """Read a shard into one batch of frames and one of log-mel spectrograms: the whole way."""
    pictures, sounds = [], []
    for members in reader.members(shard):
        frames_CTHW, audio_TM = reader.clip(members["mp4"], start_s, start_s + 2.0, indices)
        pictures.append(frames_CTHW)
        sounds.append(audio_TM)
    return [np.stack(pictures), np.stack(sounds)]


TASKS: dict[str, Callable[..., Answer]] = {"frames": frames, "fbank": fbank, "walk": walk, "chain": chain}


def make_lap(make: type[Any]) -> Lap:
    """Build a reader in this process; return the function that does and times a task on a question."""
    import torch

    torch.set_num_threads(1)
    reader = make()
    return lambda task, question: timed(lambda: TASKS[task](reader, *question))


def is_installed(make: type[Any]) -> bool:
    """Return whether everything that a reader needs is installed."""
    return all(importlib.util.find_spec(name) is not None for name in make.needs)


def compare(
    task: str, ours: type[Any], theirs: type[Any], questions: Sequence[Question], rounds: int, beat: Beat
) -> Comparison:
    """Compare two readers that take turns at a task on the same questions."""
    context = worker_context("torch")  # the one slow import that all share; it loads no FFmpeg
    with (
        RemoteContender(ours.__name__, make_lap, ours, context=context) as first,
        RemoteContender(theirs.__name__, make_lap, theirs, context=context) as second,
    ):
        readers = {"ours": first, "theirs": second}

        def lap(name: str, question: Question) -> tuple[float, Answer]:
            return readers[name].lap(task, question)

        turns = take_turns(list(readers), questions, rounds, lap, beat, _differences)
    ours_s, theirs_s = turns.seconds.values()
    return Comparison(
        ours_ms=statistics.median(ours_s) * 1e3,
        theirs_ms=statistics.median(theirs_s) * 1e3,
        ratio=Ratio.of(ours_s, theirs_s),
        differs=tuple(max(part) for part in zip(*turns.differences["theirs"], strict=True)),
    )


def _differences(found: Answer, expected: Answer) -> list[float]:
    largest = []
    for one, two in zip(found, expected, strict=True):
        if one.shape != two.shape:
            raise UserError(f"the answers have shapes {two.shape} and {one.shape}, so they are not the same work")
        apart = np.abs(one.astype(np.float64) - two.astype(np.float64))
        largest.append(float(apart.mean(axis=tuple(range(apart.ndim))[-2:]).max()))
    return largest
