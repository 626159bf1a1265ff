"""Does a caption of the generated world name the right things: their colours, shapes and actions?

What is right is what the references of a clip name, all of them together; all of them are true.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from trichord.finetune.tasks.captioning.scores import words
from trichord.shards.world.vocabulary import ACTIONS, COLOURS, SHAPES

FACTORS = ("colour", "shape", "action")
ALL = "all three"
Named = Mapping[str, frozenset[str]]


def _phrases() -> Iterator[tuple[str, str, str]]:
    for action, said in ACTIONS.items():
        yield from (("action", action, phrase) for both in said.phrases for phrase in both)
    yield from (("colour", colour, colour) for colour in COLOURS)
    yield from (("shape", shape, shape) for shape in SHAPES)


# The longest first: who "swells and shrinks again" pulses, and does not grow; who "circles" is no circle.
_MEANING = {" ".join(words(phrase)): (factor, value) for factor, value, phrase in _phrases()}
_SAID = re.compile(rf"\b(?:{'|'.join(sorted(map(re.escape, _MEANING), key=len, reverse=True))})\b")


def named(caption: str) -> Named:
    """Give what a caption names of each factor."""
    found: dict[str, set[str]] = {factor: set() for factor in FACTORS}
    for match in _SAID.finditer(" ".join(words(caption))):
        factor, value = _MEANING[match[0]]
        found[factor].add(value)
    return {factor: frozenset(values) for factor, values in found.items()}


def accuracy(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, NDArray[np.float64]]:
    """Say for each clip whether its caption names just what is there: 1 or 0, NaN where nothing is to be named."""
    found: dict[str, list[float]] = {name: [] for name in (*FACTORS, ALL)}
    for caption, truths in zip(captions, references, strict=True):
        own, true = named(caption), [named(each) for each in truths]
        wanted = {factor: frozenset().union(*(each[factor] for each in true)) for factor in FACTORS}
        for factor in FACTORS:
            found[factor].append(float(own[factor] == wanted[factor]) if wanted[factor] else math.nan)
        found[ALL].append(float(own == wanted) if all(wanted.values()) else math.nan)
    return {f"right {name}": np.array(each) for name, each in found.items()}
