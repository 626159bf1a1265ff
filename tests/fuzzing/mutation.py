"""Mutants of files: the same ones for the same seed, on every machine with the same versions of the encoders."""

from __future__ import annotations

import numpy as np

_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
_MOST_EDITS = 8


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Return a copy with one to eight edits, most of them near the start or the end, where containers keep tables."""
    found = bytearray(data)
    for _ in range(int(rng.integers(1, _MOST_EDITS + 1))):
        found = _EDITS[int(rng.integers(len(_EDITS)))](found, rng)
    return bytes(found)


def _place(found: bytearray, rng: np.random.Generator) -> int:
    size = max(len(found), 1)
    near = min(size, 2048)
    return int((rng.integers(size), rng.integers(near), size - near + rng.integers(near))[int(rng.integers(3))])


def _set_byte(found: bytearray, rng: np.random.Generator) -> bytearray:
    if found:
        found[_place(found, rng)] = int(rng.integers(256))
    return found


def _flip_bit(found: bytearray, rng: np.random.Generator) -> bytearray:
    if found:
        found[_place(found, rng)] ^= 1 << int(rng.integers(8))
    return found


def _set_number(found: bytearray, rng: np.random.Generator) -> bytearray:
    """Write an extreme number of one, two, four or eight bytes, in either order."""
    width = 1 << int(rng.integers(4))
    number = _EXTREMES[int(rng.integers(len(_EXTREMES)))] % (1 << 8 * width)
    at = _place(found, rng)
    found[at : at + width] = number.to_bytes(width, ("big", "little")[int(rng.integers(2))])
    return found


def _cut(found: bytearray, rng: np.random.Generator) -> bytearray:
    return found[: _place(found, rng)] if rng.integers(4) == 0 else found


def _remove(found: bytearray, rng: np.random.Generator) -> bytearray:
    at = _place(found, rng)
    del found[at : at + int(rng.integers(1, 65))]
    return found


def _repeat(found: bytearray, rng: np.random.Generator) -> bytearray:
    at, size = _place(found, rng), int(rng.integers(1, 513))
    return found[: at + size] + found[at : at + size] * int(rng.integers(1, 9)) + found[at + size :]


def _swap(found: bytearray, rng: np.random.Generator) -> bytearray:
    """Copy a piece over another place."""
    source, target, size = _place(found, rng), _place(found, rng), int(rng.integers(1, 257))
    found[target : target + size] = found[source : source + size]
    return found


_EDITS = (_set_byte, _flip_bit, _set_number, _set_number, _cut, _remove, _repeat, _swap)
