"""The plan of clip number N, drawn as a pure function of (seed, N, rules)."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np

from trichord.core.seeds import generator
from trichord.shards.synthetic.motion import Course, reach, repeats_in
from trichord.shards.synthetic.plan import ClipPlan, Combination, Event, Group, SyntheticRules, Thing, held_out
from trichord.shards.synthetic.vocabulary import (
    ACTIONS,
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    PLAIN,
    PLAIN_TONES,
    SHAPES,
    SIZES,
    TONES,
)

GROUPS_PER_BLOCK = 10
_SILENCE_BLOCK = 20
_MIN_TWO_EVENTS_S = 2.6

T = TypeVar("T")


def describe_clip(seed: int, number: int, rules: SyntheticRules | None = None) -> ClipPlan:
    """Return the plan of clip `number`, independent of other clips and of their total number."""
    rules = rules or SyntheticRules()
    rng = generator(seed, "clip", number)
    group = describe_group(seed, number, rules)
    events_wanted = _events_wanted(rules, rng)
    shortest_s = max(rules.min_seconds, _MIN_TWO_EVENTS_S if events_wanted == 2 else 0.0)
    frames = round(rng.uniform(shortest_s, rules.max_seconds) * group.fps)
    events = _events(seed, number, rules, group, frames / group.fps, events_wanted, rng)
    taken = [event.thing for event in events]
    distractors = _distractors(taken, group, rules.max_distractors, rng)
    heading = rng.uniform(0, 2 * math.pi)
    return ClipPlan(
        seed=seed,
        number=number,
        group=group,
        frames=frames,
        events=events,
        distractors=distractors,
        drift_x=group.drift * math.cos(heading),
        drift_y=group.drift * math.sin(heading),
        origin_x=rng.uniform(-4, 4),
        origin_y=rng.uniform(-4, 4),
        silent=_rank(seed, "silent", number, _SILENCE_BLOCK) < rules.silent_share,
    )


def describe_group(seed: int, number: int, rules: SyntheticRules) -> Group:
    """Return the group of clip `number`: ten groups alternate, so that even ten clips contain every split."""
    block = number // (GROUPS_PER_BLOCK * rules.clips_per_group)
    index = block * GROUPS_PER_BLOCK + number % GROUPS_PER_BLOCK
    rng = generator(seed, "group", index)
    rank = _rank(seed, "split", index, GROUPS_PER_BLOCK)
    width, height = rules.frame_sizes[rng.integers(len(rules.frame_sizes))]
    return Group(
        name=f"place{index:04d}",
        split="train" if rank < rules.train_share else "val" if rank < rules.train_share + rules.val_share else "test",
        width=width,
        height=height,
        fps=rules.fps[rng.integers(len(rules.fps))],
        sample_rate=rules.sample_rates[rng.integers(len(rules.sample_rates))],
        background=_chosen(tuple(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))], rules.is_plain, PLAIN),
        tones=_chosen(int(rng.integers(len(TONES))), rules.is_plain, PLAIN_TONES),
        texture=int(rng.integers(2**31)),
        drift=rng.uniform(0.03, 0.1),
        noise_db=rng.uniform(-52, -38),
        noise_slope=rng.uniform(0, 1),
        echo_s=rng.uniform(0.02, 0.08),
        echo_gain=rng.uniform(0, 0.25),
    )


def _chosen(drawn: T, is_plain: bool, plain: T) -> T:
    """Return the drawn value, or `plain` in a plain data set; other draws are the same in both."""
    return plain if is_plain else drawn


def _rank(seed: int, purpose: str, number: int, block: int) -> float:
    """Return the rank of `number` in a seeded shuffle of its block, from 0 to 1, so that shares hold in every block."""
    order = generator(seed, purpose, number // block).permutation(block)
    return float((order[number % block] + 0.5) / block)


def _events_wanted(rules: SyntheticRules, rng: np.random.Generator) -> int:
    nothing, two = rng.random(2)
    if nothing < rules.no_event_share:
        return 0
    return 2 if two < rules.two_events_share and rules.max_seconds >= _MIN_TWO_EVENTS_S else 1


def _events(
    seed: int,
    number: int,
    rules: SyntheticRules,
    group: Group,
    duration_s: float,
    wanted: int,
    rng: np.random.Generator,
) -> tuple[Event, ...]:
    # The first action cycles through a shuffle of all classes, so that small data sets are balanced too.
    balanced = CLASSES[round(_rank(seed, "action", number, len(CLASSES)) * len(CLASSES) - 0.5)]
    events: list[Event] = []
    for start_s, end_s in _spans(duration_s, wanted, rng):
        action = CLASSES[rng.integers(len(CLASSES))] if events else balanced
        colour, shape, action = _combination(seed, rules, group.split, action, events, rng)
        course = Course(
            repeats=repeats_in(action, end_s - start_s),
            phase=rng.uniform(0, 2 * math.pi),
            mirrored=bool(ACTIONS[action].reverse == action and rng.random() < 0.5),
        )
        size = tuple(SIZES)[rng.integers(len(SIZES))]
        x, y = _place(action, size, group, [event.thing for event in events], rng)
        thing = Thing(shape, colour, size, x, y, rng.uniform(-0.4, 0.4))
        is_held_out = (colour, shape, action) in held_out(seed, rules)
        events.append(Event(thing, action, course, start_s, end_s, is_held_out))
    return tuple(events)


def _spans(duration_s: float, wanted: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Draw start and end of the events, rounded to 0.01 s, from a distribution that is symmetric in time."""
    if wanted == 2 and rng.random() < 0.5:  # one after the other
        cuts = np.sort(rng.uniform(0, 1, 2))
        lengths = np.array([0.32, 0.32]) * duration_s
        free_s = duration_s - lengths.sum()
        starts = [cuts[0] * free_s, cuts[1] * free_s + lengths[0]]
        spans = list(zip(starts, lengths, strict=True))
    elif wanted == 2:  # overlapping by at least a quarter of their length
        length_s = rng.uniform(0.42, 0.55) * duration_s
        shift_s = rng.uniform(0.15, 0.75) * min(length_s, duration_s - length_s)
        first_s = rng.uniform(0, duration_s - length_s - shift_s)
        spans = [(first_s, length_s), (first_s + shift_s, length_s)]
    else:
        length_s = min(rng.uniform(1.0, 2.6), 0.8 * duration_s)
        spans = [(rng.uniform(0, duration_s - length_s), length_s)] * wanted
    return [(round(float(start), 2), round(float(start + length), 2)) for start, length in spans]


def _combination(
    seed: int, rules: SyntheticRules, split: str, action: str, events: list[Event], rng: np.random.Generator
) -> Combination:
    """Draw colour and shape for an action; test clips show held-out combinations half of the time, others never."""
    reserved = held_out(seed, rules)
    seen = {(event.thing.colour, event.thing.shape) for event in events}
    wants_reserved = split == "test" and rng.random() < 0.5
    pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in seen]
    held = [pair for pair in pairs if (*pair, action) in reserved]
    open_ = [pair for pair in pairs if (*pair, action) not in reserved]
    choices = held if (wants_reserved and held) or (split == "test" and not open_) else open_
    if choices:
        return (*choices[rng.integers(len(choices))], action)
    others = [name for name in CLASSES if any((*pair, name) not in reserved for pair in pairs)]
    return _combination(seed, rules, split, others[rng.integers(len(others))], events, rng)


def _place(action: str, size: str, group: Group, others: list[Thing], rng: np.random.Generator) -> tuple[float, float]:
    """Return a position at which the action stays inside the frame, the farthest from the others of eight draws."""
    reach_x, reach_y, scale = reach(action)
    radius = SIZES[size].radius * scale
    aspect = group.width / group.height
    tries = []
    for _ in range(8):
        x = _between(reach_x + radius, aspect - reach_x - radius, rng)
        y = _between(reach_y + radius, 1 - reach_y - radius, rng)
        tries.append((x, y))
    return max(tries, key=lambda at: min((math.hypot(at[0] - o.x, at[1] - o.y) for o in others), default=0.0))


def _between(low: float, high: float, rng: np.random.Generator) -> float:
    return float(rng.uniform(low, high)) if low < high else (low + high) / 2


def _distractors(taken: list[Thing], group: Group, most: int, rng: np.random.Generator) -> tuple[Thing, ...]:
    """Draw objects without an action, at rest or moving with the background, each distinct from those that act."""
    acting = {(thing.colour, thing.shape) for thing in taken}
    chosen: list[Thing] = []
    for _ in range(min(int(rng.integers(0, 4)), most)):
        colour = tuple(COLOURS)[rng.integers(len(COLOURS))]
        shape = SHAPES[rng.integers(len(SHAPES))]
        size = ("small", "medium")[rng.integers(2)]
        x, y = _place("rocking", size, group, taken + chosen, rng)
        thing = Thing(shape, colour, size, x, y, rng.uniform(-0.4, 0.4), drifts=bool(rng.random() < 0.5))
        if (colour, shape) not in acting:
            chosen.append(thing)
    return tuple(chosen)
