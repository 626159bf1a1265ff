"""The generated world as a learning test: clips whose shape, colour and action are known, made once, read as shards.

One thing acts in each clip, none distracts, and an even grey lies behind: nothing but the thing tells two clips apart.
(On the world's textured cloths a network this small learns the cloths, by which clips are told apart far more easily.)
All clips last two seconds. Half of the test clips show combinations of shape, colour and action
that no training clip shows; they are counted apart.
Legend: N clips, C colours, T frames, H and W pixels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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
from trichord.shards.synthetic import CLASSES, COLOURS, SHAPES, WorldRules, make_world
from trichord.shards.transforms.clip_specs import FullVideo
from trichord.shards.transforms.view_specs import Squash, ViewSpec, ViewsSpec

FACTORS: dict[str, tuple[str, ...]] = {"shape": SHAPES, "colour": tuple(COLOURS), "action": CLASSES}
WORLD_SEED = 0
RULES = WorldRules(
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
_CLIPS_PER_SHARD = 64
_READ_AT_ONCE = 64


@dataclass(frozen=True)
class Clips:
    """Decoded clips of a split, and the class of each by factor."""

    frames_NCTHW: Tensor  # uint8
    labels: Mapping[str, Tensor]
    held_out_N: Tensor  # whether the combination of shape, colour and action is one that is never trained on

    def where(self, chosen_N: Tensor) -> Clips:
        """Keep some of them."""
        labels = {factor: labels_N[chosen_N] for factor, labels_N in self.labels.items()}
        return Clips(self.frames_NCTHW[chosen_N], labels, self.held_out_N[chosen_N])


class FactorTransform:
    """Gives as a sample's labels its class by every factor, in their order, and 1 for a held-out combination."""

    def __init__(self, spec: SampleSpec, factors: Mapping[str, tuple[str, ...]] = FACTORS) -> None:
        self._transform = ClipTransform(spec)
        self._factors = factors

    def __call__(self, raw: RawSample, rng: np.random.Generator) -> Example:
        example = self._transform(raw, rng)
        (event,) = raw.annotation().extra["events"]
        classes = (names.index(event[factor]) for factor, names in self._factors.items())
        example["labels"] = (*classes, int(event["held_out"]))
        return example


def make_shards(out: Path, clips: int, rules: WorldRules = RULES) -> Path:
    """Make the world and its shards below `out`, or what of them is missing; give the folder of the splits."""
    make_world(out / "world", clips, WORLD_SEED, rules=rules)
    build("csv", out / "world", out / "shards", samples_per_shard=_CLIPS_PER_SHARD)
    return out / "shards"


def read_clips(root: Path, frames: int, size: int) -> Clips:
    """Decode all clips of a split, whole in time and in space, as they are shown to be probed."""
    views = ViewsSpec(clips=FullVideo(frames=frames), views=(ViewSpec(crop=Squash(size=size)),))
    config = StreamConfig(sources=(SourceConfig(root=str(root)),), batch_size=_READ_AT_ONCE)
    parts, labels = [], []
    transform = FactorTransform(SampleSpec(views=views, is_training=False))
    with contextlib.closing(evaluation_batches(config, transform)) as stream:
        for batch in stream:
            parts.append(batch["video"][0][batch["valid"]])
            labels += [each for each, is_valid in zip(batch["labels"], batch["valid"], strict=True) if is_valid]
    table_NF = torch.tensor(labels)
    by_factor = {factor: table_NF[:, column] for column, factor in enumerate(FACTORS)}
    return Clips(torch.cat(parts), by_factor, table_NF[:, -1].bool())
