"""The plan of a clip (its objects, their actions with times, its group) and the rules that plans are drawn by.

The rules set lengths, shares, held-out combinations and how groups are divided into splits. A layout may change them,
names the files, and writes the lists.
"""

from __future__ import annotations

import difflib
import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trichord.core.errors import UserError
from trichord.core.seeds import generator
from trichord.shards.synthetic.motion import Course
from trichord.shards.synthetic.vocabulary import ACTIONS, CLASSES, COLOURS, SHAPES


@dataclass(frozen=True)
class Group:
    """One simulated recording place: the properties that its clips share. A group belongs to one split only."""

    name: str
    split: str  # train, val or test
    width: int
    height: int
    fps: int
    sample_rate: int
    background: str
    tones: int
    texture: int  # seed of the background's details
    drift: float  # speed of the background, in frame heights per second
    noise_db: float
    noise_slope: float  # 0 white, 1 pink
    echo_s: float
    echo_gain: float


@dataclass(frozen=True)
class Thing:
    """An object and its resting position; x runs to the frame's aspect ratio, y to 1."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    angle: float
    drifts: bool = False  # moves with the background


@dataclass(frozen=True)
class Event:
    """An action of an object from start_s to end_s."""

    thing: Thing
    action: str
    course: Course
    start_s: float
    end_s: float
    held_out: bool

    @property
    def combination(self) -> Combination:
        """Colour, shape and action, which a zero-shot test can hold out."""
        return (self.thing.colour, self.thing.shape, self.action)


@dataclass(frozen=True)
class ClipPlan:
    """A whole clip; rendering it needs nothing else."""

    seed: int
    number: int
    group: Group
    frames: int
    events: tuple[Event, ...]
    distractors: tuple[Thing, ...]
    drift_x: float
    drift_y: float
    origin_x: float  # offset into the unbounded background at which the clip starts
    origin_y: float
    silent: bool

    @property
    def duration_s(self) -> float:
        """The clip's length in seconds."""
        return self.frames / self.group.fps

    @property
    def overlapping(self) -> bool:
        """Whether the two events overlap in time."""
        return len(self.events) == 2 and self.events[1].start_s < self.events[0].end_s


def reverse(plan: ClipPlan) -> ClipPlan:
    """Return the plan of the same clip played backwards: frame k becomes frame -1-k, reversible actions are renamed."""
    last_s = (plan.frames - 1) / plan.group.fps
    events = []
    for event in plan.events:
        action = ACTIONS[event.action].reverse
        course = replace(event.course, mirrored=event.course.mirrored != (action == event.action))
        start_s, end_s = last_s - event.end_s, last_s - event.start_s
        events.append(replace(event, action=action, course=course, start_s=start_s, end_s=end_s))
    things = tuple(
        replace(thing, x=thing.x + last_s * plan.drift_x, y=thing.y + last_s * plan.drift_y) if thing.drifts else thing
        for thing in plan.distractors
    )
    return replace(
        plan,
        events=tuple(sorted(events, key=lambda event: event.start_s)),
        distractors=things,
        drift_x=-plan.drift_x,
        drift_y=-plan.drift_y,
        origin_x=plan.origin_x - last_s * plan.drift_x,
        origin_y=plan.origin_y - last_s * plan.drift_y,
    )


Combination = tuple[str, str, str]  # colour, shape, action
Share = Annotated[float, Field(ge=0, le=1)]

COMBINATIONS: tuple[Combination, ...] = tuple(itertools.product(COLOURS, SHAPES, CLASSES))


class SyntheticRules(BaseModel):
    """Everything besides the seed that determines the content of clip number N."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frame_sizes: tuple[tuple[int, int], ...] = ((128, 128), (144, 112), (160, 120))
    """Widths and heights in pixels, of which each simulated place has one pair; even, and at least 32."""
    fps: tuple[int, ...] = (12, 16, 24)
    """Frame rates, of which each simulated place has one."""
    sample_rates: tuple[int, ...] = (16000, 24000)
    """Audio sampling rates in hertz, of which each simulated place has one."""
    min_seconds: Annotated[float, Field(ge=1.5)] = 2.0
    """Length of the shortest clip in seconds."""
    max_seconds: Annotated[float, Field(le=60)] = 6.0
    """Length of the longest clip in seconds."""
    two_events_share: Share = 0.4
    """Share of clips with two actions, among those that are long enough for two."""
    no_event_share: Share = 0.0
    """Share of clips without any action."""
    is_plain: bool = False
    """Use one uniform grey background in all clips."""
    max_distractors: Annotated[int, Field(ge=0, le=3)] = 3
    """Largest number of objects without an action in a clip."""
    silent_share: Share = 0.1
    """Share of clips without sound."""
    captions: Annotated[int, Field(ge=1, le=20)] = 5
    """Largest number of captions of a clip."""
    unsaid_forms: Annotated[int, Field(ge=0, le=6)] = 0
    """Number of phrasings of a single action, from the end of the list, that captions do not use."""
    holdout_share: Share = 0.1
    """Share of all combinations of colour, shape and action, chosen by the seed, that only the test split contains."""
    holdout: tuple[str, ...] = ()
    """Further combinations that only the test split contains, such as `red/star/moving`, with * for any."""
    train_share: Share = 0.7
    """Share of the simulated places that are in the training split."""
    val_share: Share = 0.1
    """Share of the simulated places that are in the validation split; the rest are in the test split."""
    clips_per_group: Annotated[int, Field(ge=1)] = 8
    """Number of clips from each simulated place, which share background, frame size, frame rate and sampling rate."""

    @model_validator(mode="after")
    def _is_possible(self) -> SyntheticRules:
        if self.min_seconds > self.max_seconds:
            raise ValueError(f"min_seconds {self.min_seconds} is above max_seconds {self.max_seconds}")
        if self.train_share + self.val_share > 1 + 1e-9:
            raise ValueError("train_share and val_share add up to more than 1")
        odd = [size for size in self.frame_sizes if size[0] % 2 or size[1] % 2 or min(size) < 32]
        if odd or not self.frame_sizes:
            raise ValueError(f"frame_sizes: expected even widths and heights of at least 32, found {odd}")
        return self


@functools.lru_cache(maxsize=32)
def held_out(seed: int, rules: SyntheticRules) -> frozenset[Combination]:
    """Return the combinations that only the test split may show."""
    order = generator(seed, "holdout").permutation(len(COMBINATIONS))
    drawn = {COMBINATIONS[place] for place in order[: round(rules.holdout_share * len(COMBINATIONS))]}
    named = {found for pattern in rules.holdout for found in matching(pattern)}
    chosen = frozenset(drawn | named)
    if len(chosen) == len(COMBINATIONS):
        raise UserError(
            f"all {len(COMBINATIONS)} combinations are held out (share {rules.holdout_share}, {list(rules.holdout)}), "
            "so the training split would be empty; hold out fewer, e.g. --holdout 'red/star/*'"
        )
    return chosen


def matching(pattern: str) -> list[Combination]:
    """Return the combinations that match `colour/shape/action`; * matches any, `moving` every direction of moving."""
    parts = [part.strip() for part in pattern.split("/")]
    known = (("colour", tuple(COLOURS)), ("shape", SHAPES), ("action", CLASSES))
    if len(parts) != len(known):
        raise UserError(f"holdout {pattern!r}: expected COLOUR/SHAPE/ACTION, for example 'red/star/*'")
    chosen: list[list[str]] = []
    for part, (kind, names) in zip(parts, known, strict=True):
        chosen.append([name for name in names if part in ("*", name) or name.startswith(f"{part} ")])
        if not chosen[-1]:
            near = difflib.get_close_matches(part, names, n=1, cutoff=0.0)[0]
            raise UserError(
                f"holdout {pattern!r}: no {kind} {part!r}, did you mean {near!r}? Known: {', '.join(names)}"
            )
    return [(colour, shape, action) for colour, shape, action in itertools.product(*chosen)]


@dataclass(frozen=True)
class GeneratedClip:
    """A planned clip and its path relative to the data set's folder."""

    plan: ClipPlan
    path: str


class SyntheticLayout(Protocol):
    """The three functions that the module of a layout defines."""

    def adapt(self, rules: SyntheticRules) -> SyntheticRules:
        """Return the rules without what the dataset's format cannot represent."""

    def name_files(self, plans: Sequence[ClipPlan]) -> list[str]:
        """Return the path of each clip's video, relative to the data set's folder; its suffix chooses the codecs."""

    def write_lists(self, out: Path, clips: Sequence[GeneratedClip], rules: SyntheticRules) -> None:
        """Write the dataset's own lists of labels, splits and captions, after all videos are written."""
