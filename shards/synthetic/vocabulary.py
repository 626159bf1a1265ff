"""The vocabulary of the synthetic data set: shapes, colours, sizes, actions and backgrounds, with their phrases."""

from __future__ import annotations

from dataclasses import dataclass

Colour = tuple[int, int, int]

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "heart", "crescent")

COLOURS: dict[str, Colour] = {
    "red": (232, 54, 60),
    "orange": (255, 146, 36),
    "yellow": (255, 222, 64),
    "green": (62, 190, 88),
    "blue": (58, 118, 240),
    "purple": (156, 78, 214),
    "pink": (255, 138, 190),
    "white": (246, 246, 242),
}


@dataclass(frozen=True)
class ObjectSize:
    """The radius of an object (in frame heights), its base pitch, and the words for its size."""

    radius: float
    pitch_hz: float
    words: tuple[str, ...]


SIZES: dict[str, ObjectSize] = {
    "small": ObjectSize(0.09, 520.0, ("small", "tiny", "little")),
    "medium": ObjectSize(0.13, 330.0, ("", "medium-sized", "")),
    "large": ObjectSize(0.17, 210.0, ("large", "big", "huge")),
}


@dataclass(frozen=True)
class Action:
    """An action, recognisable only over time: the class of its reversal, and phrases as (third person, participle)."""

    reverse: str
    phrases: tuple[tuple[str, str], ...]


ACTIONS: dict[str, Action] = {
    "moving left": Action(
        "moving right",
        (
            ("moves to the left", "moving to the left"),
            ("slides left", "sliding left"),
            ("glides leftwards", "gliding leftwards"),
        ),
    ),
    "moving right": Action(
        "moving left",
        (
            ("moves to the right", "moving to the right"),
            ("slides right", "sliding right"),
            ("glides rightwards", "gliding rightwards"),
        ),
    ),
    "moving up": Action(
        "moving down",
        (("moves up", "moving up"), ("rises", "rising"), ("climbs upwards", "climbing upwards")),
    ),
    "moving down": Action(
        "moving up",
        (("moves down", "moving down"), ("sinks", "sinking"), ("drops downwards", "dropping downwards")),
    ),
    "circling clockwise": Action(
        "circling anticlockwise",
        (
            ("circles clockwise", "circling clockwise"),
            ("travels around a circle clockwise", "travelling around a circle clockwise"),
        ),
    ),
    "circling anticlockwise": Action(
        "circling clockwise",
        (
            ("circles anticlockwise", "circling anticlockwise"),
            ("travels around a circle anticlockwise", "travelling around a circle anticlockwise"),
        ),
    ),
    "spinning clockwise": Action(
        "spinning anticlockwise",
        (
            ("spins clockwise", "spinning clockwise"),
            ("turns clockwise on the spot", "turning clockwise on the spot"),
        ),
    ),
    "spinning anticlockwise": Action(
        "spinning clockwise",
        (
            ("spins anticlockwise", "spinning anticlockwise"),
            ("turns anticlockwise on the spot", "turning anticlockwise on the spot"),
        ),
    ),
    "growing": Action(
        "shrinking",
        (("grows", "growing"), ("gets bigger", "getting bigger"), ("swells", "swelling")),
    ),
    "shrinking": Action(
        "growing",
        (("shrinks", "shrinking"), ("gets smaller", "getting smaller"), ("dwindles", "dwindling")),
    ),
    "appearing": Action(
        "vanishing",
        (("appears", "appearing"), ("fades in", "fading in"), ("comes into view", "coming into view")),
    ),
    "vanishing": Action(
        "appearing",
        (("vanishes", "vanishing"), ("fades away", "fading away"), ("disappears", "disappearing")),
    ),
    "zigzagging": Action(
        "zigzagging",
        (("zigzags across", "zigzagging across"), ("follows a zigzag path", "following a zigzag path")),
    ),
    "bouncing": Action(
        "bouncing",
        (("bounces", "bouncing"), ("hops up and down", "hopping up and down")),
    ),
    "shaking": Action(
        "shaking",
        (("shakes", "shaking"), ("jitters from side to side", "jittering from side to side")),
    ),
    "rocking": Action(
        "rocking",
        (("rocks back and forth", "rocking back and forth"), ("tilts to and fro", "tilting to and fro")),
    ),
    "blinking": Action(
        "blinking",
        (("blinks", "blinking"), ("flashes on and off", "flashing on and off")),
    ),
    "pulsing": Action(
        "pulsing",
        (("pulses", "pulsing"), ("throbs", "throbbing"), ("swells and shrinks again", "swelling and shrinking again")),
    ),
}

# Label ids are positions in this tuple; the order never changes, because written files refer to it.
CLASSES = tuple(ACTIONS)

BACKGROUNDS: dict[str, str] = {
    "stripes": "drifting stripes",
    "checks": "a drifting chequered cloth",
    "waves": "rolling waves",
    "clouds": "slow clouds",
    "dots": "a sheet of drifting dots",
    "rings": "drifting ripples",
}

# The background of a plain data set, whose clips differ only in their objects.
PLAIN = "plain"
PLAIN_TONES = 4
BEHIND = {**BACKGROUNDS, PLAIN: "a plain grey wall"}

# Dark, unsaturated pairs, so that every object colour stands out on every background.
TONES: tuple[tuple[Colour, Colour], ...] = (
    ((38, 50, 70), (70, 89, 115)),
    ((50, 43, 65), (94, 77, 110)),
    ((36, 58, 55), (65, 101, 94)),
    ((65, 50, 43), (110, 89, 72)),
    ((43, 43, 48), (86, 86, 94)),
    ((62, 38, 50), (108, 70, 86)),
    ((34, 46, 41), (79, 91, 65)),
    ((31, 36, 62), (58, 79, 127)),
)
