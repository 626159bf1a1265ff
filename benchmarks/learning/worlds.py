"""Two worlds for the tests of heads: one to pretrain on, and another in Charades' layout, made once and read as shards.

Both are plain, as in `pretrain.bench.world_clips`. The first has one action a clip of two seconds; that in Charades'
layout has other clips, of two to four seconds, with none, one or two actions that may overlap, some of which its lists
let end after the video. It splits into clips to train a head on and clips to test it on.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from benchmarks.learning.world_clips import RULES, make_shards
from trichord.shards.building.write import build
from trichord.shards.synthetic import make_world

PRETRAINING_RULES = RULES.model_copy(update={"captions": 5, "train_share": 1.0})
CHARADES_RULES = RULES.model_copy(
    update={"max_seconds": 4.0, "two_events_share": 0.5, "captions": 5, "train_share": 0.8, "clips_per_group": 8}
)
CHARADES_SEED = 1
PRETRAINING_SHARE = 1.5  # clips to pretrain on for each in Charades' layout
_CLIPS_PER_SHARD = 64


class Worlds(NamedTuple):
    """Folders of shards."""

    pretraining: str
    train: str
    test: str


def make_worlds(out: Path, clips: int) -> Worlds:
    """Make both below `out`, or what of them is missing."""
    pretraining = make_shards(out / "pretraining", round(PRETRAINING_SHARE * clips), PRETRAINING_RULES)
    make_world(out / "charades/world", clips, CHARADES_SEED, layout="charades", rules=CHARADES_RULES)
    shards = out / "charades/shards"
    build("charades", out / "charades/world", shards, samples_per_shard=_CLIPS_PER_SHARD)
    return Worlds(str(pretraining / "train"), str(shards / "train"), str(shards / "test"))
