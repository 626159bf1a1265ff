"""Seeds that depend on what is drawn, never on the process that draws it or on the order of draws."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(*parts: int | str) -> int:
    """Return a 64-bit hash of numbers and names, the same on every machine and Python version."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def generator(*parts: int | str) -> np.random.Generator:
    """Return a random generator for one purpose, e.g. `generator(seed, "views", step, key)`."""
    return np.random.Generator(np.random.PCG64(derive_seed(*parts)))
