"""Metrics of a set of captions, with intervals and a constant caption as baseline.

Where clips are resampled for an interval, the rarity of an n-gram remains that of the whole set. For the synthetic
data set it is also measured whether captions name the right colours, shapes and actions: those that the references of
a clip name together, all of which are true.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trichord.finetune.bootstrap import DRAWS, intervals, once
from trichord.finetune.tasks.captioning import meteor
from trichord.finetune.tasks.captioning.scores import TOKENS, Judged, References, words
from trichord.shards.synthetic.vocabulary import ACTIONS, COLOURS, SHAPES

_CANDIDATES = 100  # most frequent references, from which the best constant caption is chosen
_COCO, _ROUGE = "ours, equal to pycocoevalcap 1.2", "ours, equal to rouge-score 0.1.2"
_LIBRARY = {
    **dict.fromkeys(("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D"), _COCO),
    **dict.fromkeys(("ROUGE-1", "ROUGE-2"), _ROUGE),
}


@dataclass
class Measured:
    """A row for each metric, and notes on them."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        name: str,
        value: float,
        constant: float,
        library: str,
        interval: tuple[float | None, float | None] = (None, None),
    ) -> None:
        """Add a metric, with the value of one caption for every clip as baseline."""
        low, high = interval
        figures = {"metric": name, "value": float(value), "low": low, "high": high, "one caption": float(constant)}
        self.rows.append({**figures, "library": library})

    @property
    def metrics(self) -> dict[str, float]:
        """The values by metric."""
        return {row["metric"]: row["value"] for row in self.rows}


def measure(
    captions: Sequence[str], references: Sequence[Sequence[str]], seed: int, of_world: bool, with_meteor: bool
) -> Measured:
    """Measure captions against the references of their clips; every clip has at least one."""
    known = References(references)
    constant = best_constant(known, references)
    judged, baseline = (_judge(known, each, references, of_world) for each in (captions, [constant] * len(captions)))
    found, other = (each.figures(once(len(captions))) for each in (judged, baseline))
    ends = intervals(judged.figures, len(captions), seed)
    measured = Measured()
    for name in found:
        if np.isnan(found[name][0]):  # no clip counts
            continue
        low, high = ends[name].tolist()
        measured.add(name, found[name][0], other[name][0], _LIBRARY.get(name, "share of clips"), (low, high))
    measured.notes.append(f"words compared: {TOKENS}; intervals: middle 95 % of {DRAWS} resampled sets of clips")
    measured.notes.append(f"one caption: the score of {constant!r} for every clip (the best of common references)")
    if with_meteor:
        own, other_one = meteor.meteor([captions, [constant] * len(captions)], references)
        measured.add("METEOR", own, other_one, meteor.LIBRARY)
    else:
        measured.notes.append("METEOR is left out: it is a Java program, which objective.meteor=true enables")
    distinct = len({words(caption) for caption in captions})
    measured.add("distinct captions", distinct / len(captions), 1 / len(captions), "share of clips")
    return measured


def best_constant(known: References, references: Sequence[Sequence[str]]) -> str:
    """Return the caption that has the highest BLEU-4 for all clips, among the most frequent references."""
    shared = Counter(caption for clip in references for caption in dict.fromkeys(clip))
    candidates = [caption for caption, _ in shared.most_common(_CANDIDATES)]

    def of_every_clip(caption: str) -> float:
        return float(Judged(known.bleu_rows([caption] * len(known)), {}).figures(once(len(known)))["BLEU-4"][0])

    return max(candidates, key=of_every_clip)


def _judge(known: References, captions: Sequence[str], references: Sequence[Sequence[str]], of_world: bool) -> Judged:
    judged = known.judge(captions)
    right = accuracy(captions, references) if of_world else {}
    return replace(judged, means_N={**judged.means_N, **right})


FACTORS = ("colour", "shape", "action")
ALL = "all three"
Named = Mapping[str, frozenset[str]]


def _phrases() -> Iterator[tuple[str, str, str]]:
    for action, wording in ACTIONS.items():
        yield from (("action", action, phrase) for both in wording.phrases for phrase in both)
    yield from (("colour", colour, colour) for colour in COLOURS)
    yield from (("shape", shape, shape) for shape in SHAPES)


# Longest first: "swells and shrinks again" means to pulse, not to grow, and "circles" is not a circle.
_MEANING = {" ".join(words(phrase)): (factor, value) for factor, value, phrase in _phrases()}
_PHRASE = re.compile(rf"\b(?:{'|'.join(sorted(map(re.escape, _MEANING), key=len, reverse=True))})\b")


def named(caption: str) -> Named:
    """Return the values of each factor that a caption names."""
    found: dict[str, set[str]] = {factor: set() for factor in FACTORS}
    for match in _PHRASE.finditer(" ".join(words(caption))):
        factor, value = _MEANING[match[0]]
        found[factor].add(value)
    return {factor: frozenset(values) for factor, values in found.items()}


def accuracy(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, NDArray[np.float64]]:
    """Return for each clip whether its caption names what its references do: 1 or 0, NaN if these name nothing."""
    found: dict[str, list[float]] = {name: [] for name in (*FACTORS, ALL)}
    for caption, truths in zip(captions, references, strict=True):
        own, true = named(caption), [named(each) for each in truths]
        wanted = {factor: frozenset().union(*(each[factor] for each in true)) for factor in FACTORS}
        for factor in FACTORS:
            found[factor].append(float(own[factor] == wanted[factor]) if wanted[factor] else math.nan)
        found[ALL].append(float(own == wanted) if all(wanted.values()) else math.nan)
    return {f"right {name}": np.array(each) for name, each in found.items()}
