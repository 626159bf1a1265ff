"""A licence-free synthetic data set of clips whose video, audio and captions describe the same events."""

from trichord.shards.synthetic.casting import describe_clip
from trichord.shards.synthetic.language import caption_of, captions
from trichord.shards.synthetic.make import LAYOUTS, Rendered, SyntheticSummary, make_synthetic, render
from trichord.shards.synthetic.plan import (
    COMBINATIONS,
    ClipPlan,
    Combination,
    Event,
    Group,
    SyntheticRules,
    Thing,
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
    "SyntheticRules",
    "SyntheticSummary",
    "Thing",
    "caption_of",
    "captions",
    "describe_clip",
    "held_out",
    "make_synthetic",
    "render",
    "reverse",
]
