"""Captions of a generated clip, in several different phrasings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from trichord.core.seeds import generator
from trichord.shards.synthetic.plan import ClipPlan, Event
from trichord.shards.synthetic.vocabulary import ACTIONS, BEHIND, PLAIN, SIZES

_ONE = (
    "{a} {does_a}",
    "{a} {doing_a}",
    "there is {a} {doing_a}",
    "{a} {does_a} in front of {behind}",
    "in front of {behind}, {a} {does_a}",
    "a clip of {a} {doing_a}",
    "we see {a} that {does_a}",
    "{a}, {doing_a}",
)
_FIRST_THEN = (
    "first {a} {does_a}, then {b} {does_b}",
    "{a} {does_a} and then {b} {does_b}",
    "{a} {does_a} before {b} {does_b}",
    "after {a} {does_a}, {b} {does_b}",
    "{a} {does_a}, and afterwards {b} {does_b}",
    "{b} {does_b} after {a} {does_a}",
    "first {a} {does_a}, then {b} {does_b}, in front of {behind}",
)
_WHILE = (
    "{a} {does_a} while {b} {does_b}",
    "while {b} {does_b}, {a} {does_a}",
    "{b} {does_b} while {a} {does_a}",
    "{a} {does_a} as {b} {does_b}",
    "{a} {doing_a} and {b} {doing_b} at the same time",
    "{a} {does_a} while {b} {does_b} in front of {behind}",
)
_NOTHING = (
    "nothing happens in front of {behind}",
    "{behind}",
    "only {behind}, nothing acts",
    "a view of {behind}",
    "{behind} and nothing else that happens",
)
_TRIES_PER_CAPTION = 12
FORMS = len(_ONE)

Option = TypeVar("Option")


def captions(plan: ClipPlan, count: int, unsaid_forms: int = 0) -> tuple[str, ...]:
    """Return up to `count` different captions, all of them true; the last `unsaid_forms` phrasings are not used."""
    rng = generator(plan.seed, "captions", plan.number)
    templates = _templates(plan, unsaid_forms)
    order = rng.permutation(len(templates))
    distinct: dict[str, None] = {}
    for attempt in range(count * _TRIES_PER_CAPTION):
        distinct[_fill(templates[order[attempt % len(order)]], plan, rng)] = None
        if len(distinct) == count:
            break
    return tuple(distinct)


def caption_of(colour: str, shape: str, action: str, form: int) -> str:
    """Return a caption of one event in phrasing `form` of the `FORMS`; negative numbers count from the last."""
    does, doing = ACTIONS[action].phrases[0]
    return _ONE[form].format(a=_a(f"{colour} {shape}"), does_a=does, doing_a=doing, behind=BEHIND[PLAIN])


def _templates(plan: ClipPlan, unsaid_forms: int) -> tuple[str, ...]:
    if not plan.events:
        return _NOTHING
    if len(plan.events) == 1:
        return _ONE[: FORMS - unsaid_forms]
    return _WHILE if plan.overlapping else _FIRST_THEN


def _fill(template: str, plan: ClipPlan, rng: np.random.Generator) -> str:
    words = {"behind": BEHIND[plan.group.background]}
    for letter, event in zip("ab", plan.events, strict=False):
        does, doing = _pick(ACTIONS[event.action].phrases, rng)
        words |= {letter: _noun(event, rng), f"does_{letter}": does, f"doing_{letter}": doing}
    return template.format(**words)


def _noun(event: Event, rng: np.random.Generator) -> str:
    """Return a noun phrase such as "a small red star"; the size is sometimes left out."""
    size = _pick((*SIZES[event.thing.size].words, ""), rng)
    return _a(" ".join(word for word in (size, event.thing.colour, event.thing.shape) if word))


def _a(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _pick(options: Sequence[Option], rng: np.random.Generator) -> Option:
    return options[int(rng.integers(len(options)))]
