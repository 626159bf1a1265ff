"""A licence-free synthetic data set of clips whose video, audio and captions describe the same events."""

from trichord.shards.synthetic.casting import describe_clip
from trichord.shards.synthetic.language import captions, say
from trichord.shards.synthetic.make import LAYOUTS, Rendered, WorldSummary, make_world, render
from trichord.shards.synthetic.plan import (
    COMBINATIONS,
    ClipPlan,
    Combination,
    Event,
    Group,
    Thing,
    WorldRules,
    held_out,
    reverse,
)
from trichord.shards.synthetic.vocabulary import ACTIONS, BACKGROUNDS, CLASSES, COLOURS, SHAPES, SIZES

__all__ = [
    "ACTIONS",
    "BACKGROUNDS",
    "CLASSES",
    "COLOURS",
    "COMBINATIONS",
    "LAYOUTS",
    "SHAPES",
    "SIZES",
    "ClipPlan",
    "Combination",
    "Event",
    "Group",
    "Rendered",
    "Thing",
    "WorldRules",
    "WorldSummary",
    "captions",
    "describe_clip",
    "held_out",
    "make_world",
    "render",
    "reverse",
    "say",
]
