"""A clip before anything is drawn or played: who is in it, what they do and when, and where it was recorded."""

from __future__ import annotations

from dataclasses import dataclass, replace

from trichord.shards.world.motion import Course
from trichord.shards.world.rules import Combination
from trichord.shards.world.vocabulary import ACTIONS


@dataclass(frozen=True)
class Group:
    """One recording place: what all its clips share, so that no split may see what another has seen."""

    name: str
    split: str  # train, val or test
    width: int
    height: int
    fps: int
    sample_rate: int
    background: str
    tones: int
    texture: int  # seed of the background's details
    drift: float  # how fast the background moves, in frame heights per second
    noise_db: float
    noise_slope: float  # 0 white, 1 pink
    echo_s: float
    echo_gain: float


@dataclass(frozen=True)
class Thing:
    """An object and where it rests; x runs to the frame's aspect ratio, y to 1."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    angle: float
    drifts: bool = False  # carried along by the background


@dataclass(frozen=True)
class Event:
    """A thing that acts from start_s to end_s."""

    thing: Thing
    action: str
    course: Course
    start_s: float
    end_s: float
    held_out: bool

    @property
    def combination(self) -> Combination:
        """Name what a zero-shot test can hold out."""
        return (self.thing.colour, self.thing.shape, self.action)


@dataclass(frozen=True)
class ClipPlan:
    """A whole clip; drawing and playing it need nothing else."""

    seed: int
    number: int
    group: Group
    frames: int
    events: tuple[Event, ...]
    distractors: tuple[Thing, ...]
    drift_x: float
    drift_y: float
    origin_x: float  # where in the endless background the clip starts
    origin_y: float
    silent: bool

    @property
    def duration_s(self) -> float:
        """The clip's length in seconds."""
        return self.frames / self.group.fps

    @property
    def overlapping(self) -> bool:
        """Whether two events happen at the same time for a while."""
        return len(self.events) == 2 and self.events[1].start_s < self.events[0].end_s


def reverse(plan: ClipPlan) -> ClipPlan:
    """Plan the same clip played backwards: frame k becomes frame -1-k, and reversible actions change their name."""
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
