"""The questions that are asked of every contender, by name; each gives arrays that can be compared."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Answer = list[np.ndarray[Any, Any]]


def frames(contender: Any, data: bytes, indices: Sequence[int]) -> Answer:
    """Bytes of an mp4 to 8 x 3 x 224 x 224 uint8."""
    return [contender.frames(data, indices)]


def fbank(contender: Any, samples_N: np.ndarray[Any, Any], repeats: int) -> Answer:
    """Two seconds of sound to log-mel, several times over so that a clock can see it."""
    for _ in range(repeats - 1):
        contender.fbank(samples_N)
    return [contender.fbank(samples_N)]


def walk(contender: Any, shard: Path, repeats: int) -> Answer:
    """Every member's bytes; the answer is a checksum of each clip of the last walk."""
    for _ in range(repeats):
        media = [members["mp4"] for members in contender.members(shard)]
    return [np.array([zlib.crc32(data) for data in media])]


def chain(contender: Any, shard: Path, start_s: float, indices: Sequence[int]) -> Answer:
    """A shard to one batch of frames and one of log-mel: the whole way."""
    pictures, sounds = [], []
    for members in contender.members(shard):
        frames_CTHW, audio_TM = contender.clip(members["mp4"], start_s, start_s + 2.0, indices)
        pictures.append(frames_CTHW)
        sounds.append(audio_TM)
    return [np.stack(pictures), np.stack(sounds)]


TASKS: dict[str, Callable[..., Answer]] = {
    "frames": frames,
    "fbank": fbank,
    "walk": walk,
    "chain": chain,
}
