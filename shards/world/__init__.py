"""A generated, licence-free world of clips whose pictures, sounds and words tell the same story."""

from trichord.shards.world.casting import describe_clip
from trichord.shards.world.language import captions, say
from trichord.shards.world.make import LAYOUTS, Rendered, WorldSummary, make_world, render
from trichord.shards.world.plan import ClipPlan, Event, Group, Thing, reverse
from trichord.shards.world.rules import COMBINATIONS, Combination, WorldRules, held_out
from trichord.shards.world.vocabulary import ACTIONS, BACKGROUNDS, CLASSES, COLOURS, SHAPES, SIZES

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
