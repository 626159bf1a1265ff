"""Synthetic clips whose shape, colour and action are known: generated once and read as shards.

In each clip one object acts before an even grey background, without distractors, so that only the object distinguishes
clips. (With textured backgrounds, a network this small learns the textures, which distinguish clips far more easily.)
All clips last two seconds. Half of the test clips show combinations of shape, colour and action that no training clip
shows; they are counted separately.

Experiments with heads use two such data sets: one for pretraining, and one in the layout of Charades. The latter has
other clips, of two to four seconds, with up to two actions that may overlap, some of which end after the video by its
annotations. It is split into clips to train a head on and clips to test it on.
Legend: N clips, C colours, T frames, H and W pixels.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trichord.shards.building.write import build
from trichord.shards.reading.batch import Example
from trichord.shards.reading.evaluation import evaluation_batches
from trichord.shards.reading.stream_config import SourceConfig, StreamConfig
from trichord.shards.record import RawSample
from trichord.shards.sample import ClipTransform
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.synthetic import CLASSES, COLOURS, SHAPES, SyntheticRules, make_synthetic
from trichord.shards.transforms.clip_specs import FullVideo
from trichord.shards.transforms.crops import Squash
from trichord.shards.transforms.view_specs import ViewSpec, ViewsSpec

FACTORS: dict[str, tuple[str, ...]] = {"shape": SHAPES, "colour": tuple(COLOURS), "action": CLASSES}
DATA_SEED = 0
RULES = SyntheticRules(
    frame_sizes=((64, 64),),
    fps=(12,),
    min_seconds=2.0,
    max_seconds=2.0,
    two_events_share=0.0,
    max_distractors=0,
    is_plain=True,
    silent_share=1.0,
    captions=1,
    clips_per_group=200,
    train_share=0.7,
    val_share=0.0,
)
PRETRAINING_RULES = RULES.model_copy(update={"captions": 5, "train_share": 1.0})
CHARADES_RULES = RULES.model_copy(
    update={"max_seconds": 4.0, "two_events_share": 0.5, "captions": 5, "train_share": 0.8, "clips_per_group": 8}
)
CHARADES_SEED = 1
PRETRAINING_SHARE = 1.5  # pretraining clips for each clip in the layout of Charades
_CLIPS_PER_SHARD = 64
_READ_AT_ONCE = 64


@dataclass(frozen=True)
class Clips:
    """Decoded clips of a split, and the class of each by factor."""

    frames_NCTHW: Tensor  # uint8
    labels: Mapping[str, Tensor]
    held_out_N: Tensor  # whether no training clip shows the combination of shape, colour and action

    def where(self, chosen_N: Tensor) -> Clips:
        """Return the chosen clips."""
        labels = {factor: labels_N[chosen_N] for factor, labels_N in self.labels.items()}
        return Clips(self.frames_NCTHW[chosen_N], labels, self.held_out_N[chosen_N])


class FactorTransform:
    """Labels a sample with its class by each factor, in their order, and with 1 for a held-out combination."""

    def __init__(self, spec: SampleSpec, factors: Mapping[str, tuple[str, ...]] = FACTORS) -> None:
        self._transform = ClipTransform(spec)
        self._factors = factors

    def __call__(self, raw: RawSample, rng: np.random.Generator) -> Example:
        example = self._transform(raw, rng)
        (event,) = raw.annotation().extra["events"]
        classes = (names.index(event[factor]) for factor, names in self._factors.items())
        return dataclasses.replace(example, labels=(*classes, int(event["held_out"])))


def make_shards(out: Path, clips: int, rules: SyntheticRules = RULES) -> Path:
    """Generate the clips and their shards below `out`, unless they exist; return the folder of the splits."""
    make_synthetic(out / "world", clips, DATA_SEED, rules=rules)
    build("csv", out / "world", out / "shards", samples_per_shard=_CLIPS_PER_SHARD)
    return out / "shards"


def read_clips(root: Path, frames: int, size: int) -> Clips:
    """Decode all clips of a split, uncropped in time and space."""
    views = ViewsSpec(clips=FullVideo(frames=frames), views=(ViewSpec(crop=Squash(size=size)),))
    config = StreamConfig(sources=(SourceConfig(root=str(root)),), batch_size=_READ_AT_ONCE)
    parts, labels = [], []
    transform = FactorTransform(SampleSpec(views=views, is_training=False))
    with contextlib.closing(evaluation_batches(config, transform)) as stream:
        for batch in stream:
            parts.append(batch.video[0][batch.valid])
            labels += [each for each, is_valid in zip(batch.labels, batch.valid, strict=True) if is_valid]
    table_NF = torch.tensor(labels)
    by_factor = {factor: table_NF[:, column] for column, factor in enumerate(FACTORS)}
    return Clips(torch.cat(parts), by_factor, table_NF[:, -1].bool())


class HeadShards(NamedTuple):
    """The folders of shards of an experiment with heads."""

    pretraining: str
    train: str
    test: str


def make_head_shards(out: Path, clips: int) -> HeadShards:
    """Generate both data sets and their shards below `out`, unless they exist."""
    pretraining = make_shards(out / "pretraining", round(PRETRAINING_SHARE * clips), PRETRAINING_RULES)
    make_synthetic(out / "charades/world", clips, CHARADES_SEED, layout="charades", rules=CHARADES_RULES)
    shards = out / "charades/shards"
    build("charades", out / "charades/world", shards, samples_per_shard=_CLIPS_PER_SHARD)
    return HeadShards(str(pretraining / "train"), str(shards / "train"), str(shards / "test"))
