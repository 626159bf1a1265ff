"""Rules for mirroring clips: "pushing from left to right" becomes another class, and another caption, if mirrored."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from pydantic import BaseModel, ConfigDict, model_validator


class FlipRule(BaseModel):
    """Labels and words whose meaning depends on left and right.

    A clip with an exempt label, or with an exempt word in its caption, is never mirrored. A clip with a label of a swap
    pair is mirrored in all its views or in none, and its label is swapped if it is mirrored.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    exempt_labels: frozenset[int] = frozenset()
    """Numbers of the classes whose clips are never mirrored."""
    swap_labels: tuple[tuple[int, int], ...] = ()
    """Pairs of class numbers that are exchanged when a clip is mirrored."""
    exempt_words: tuple[str, ...] = ("left", "right", "clockwise", "counterclockwise", "anticlockwise")
    """Words, in lower case, that keep a clip with one of them in its caption from being mirrored."""

    @model_validator(mode="after")
    def _one_side_each(self) -> FlipRule:
        paired = [label for pair in self.swap_labels for label in pair]
        if len(set(paired)) < len(paired) or self.exempt_labels.intersection(paired):
            raise ValueError("a label may be in one swap pair only, and must not be exempt as well")
        return self


class Mirroring(Enum):
    """How the views of one sample may be mirrored."""

    NEVER = "never"
    TOGETHER = "together"  # one draw for all views, because the labels depend on it
    EACH = "each"  # one draw per view


@dataclass(frozen=True)
class SampleFlip:
    """The rule applied to one sample."""

    mirroring: Mirroring
    mirrored_labels: tuple[int, ...]


def judge(rule: FlipRule, labels: Sequence[int], captions: Sequence[str]) -> SampleFlip:
    """Return how this sample's views may be mirrored, and its labels if they are."""
    if rule.exempt_labels.intersection(labels) or any(_mentions(caption, rule.exempt_words) for caption in captions):
        return SampleFlip(Mirroring.NEVER, tuple(labels))
    other_side = dict(rule.swap_labels) | {right: left for left, right in rule.swap_labels}
    mirrored = tuple(other_side.get(label, label) for label in labels)
    together = any(label in other_side for label in labels)
    return SampleFlip(Mirroring.TOGETHER if together else Mirroring.EACH, mirrored)


def _mentions(caption: str, words: Sequence[str]) -> bool:
    return not set(words).isdisjoint(re.findall(r"[a-z]+", caption.lower()))
