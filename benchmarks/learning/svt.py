"""Does it learn? Pretrains on the generated world without labels, and asks what its features know of each factor.

Every seed is a run of its own through the real engine. Its features, those of the same network untrained, those of the
same network trained with labels, and statistics of pixels are probed alike.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.learning.baselines import first_backbone, pixel_statistics, pooled, train_with_labels
from benchmarks.learning.probes import Known, probe
from benchmarks.learning.training import train
from benchmarks.learning.world_clips import FACTORS, Clips, make_shards, read_clips
from trichord.core.console import pulse
from trichord.core.files import write_whole
from trichord.core.run_folder import RunFolder
from trichord.pretrain.backbones.base import Backbone
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine import checkpoint_files
from trichord.pretrain.objectives.svt import SvtSpec
from trichord.pretrain.recipe import load_recipe

RECIPES = {"svt": "svt_world"}
PIXELS, UNTRAINED, LABELLED = "pixel statistics", "untrained", "trained with labels"
LOOKS = 4  # how often within a run its features are probed
SPLITS = ("train", "test")
SEEN, HELD_OUT = "seen", "held out"  # combinations of shape, colour and action
_RESULT = "learning.json"


@dataclass(frozen=True)
class Finding:
    """Which share of the test clips was told right from some features."""

    features: str
    factor: str
    clips: str  # SEEN or HELD_OUT
    knn: float
    linear: float


@dataclass(frozen=True)
class SeedResult:
    """What one seed gave, and from which settings; the curve is of the pretrained features while they were learnt."""

    config: dict[str, Any]
    findings: tuple[Finding, ...]
    curve: tuple[tuple[int, Finding], ...]  # with the step
    pretraining_s: float
    labels_s: float


@dataclass(frozen=True)
class World:
    """The clips that are probed, and where the shards lie that are trained on."""

    shards: Path
    train: Clips
    tests: dict[str, Clips]


def learn(
    out: Path, objective: str, seeds: Sequence[int], clips: int, overrides: Sequence[str]
) -> tuple[World, list[SeedResult]]:
    """Run all seeds, or those that an earlier call with the same settings has not finished."""
    configs = [_configure(out, objective, seed, overrides) for seed in seeds]
    world = open_world(out, clips, configs[0])
    return world, [_learn_seed(out, objective, config, clips, world) for config in configs]


def open_world(out: Path, count: int, config: RunConfig) -> World:
    """Make what is missing of the world, and decode what is probed."""
    shards = make_shards(out, count)
    train, test = (read_clips(shards / split, config.backbone.frames, config.backbone.size) for split in SPLITS)
    return World(shards, train, {SEEN: test.where(~test.held_out_N), HELD_OUT: test.where(test.held_out_N)})


def _configure(out: Path, objective: str, seed: int, overrides: Sequence[str]) -> RunConfig:
    own = (f"data.sources={json.dumps(str(out / 'shards' / SPLITS[0]))}", f"seed={seed}")
    config = load_recipe(RECIPES[objective], (*overrides, *own)).config
    every = -(-config.steps // LOOKS)
    kept = config.checkpoints.model_copy(update={"every_steps": every, "every_s": None, "keep_every_steps": every})
    return config.model_copy(update={"checkpoints": kept})


def _learn_seed(out: Path, objective: str, config: RunConfig, clips: int, world: World) -> SeedResult:
    run = out / f"{objective}_seed_{config.seed}"
    settings = {**config.model_dump(mode="json"), "clips": clips}
    kept = _read_result(run, settings)
    if kept:
        _say(f"seed {config.seed}: finished before, kept in {run}")
        return kept
    _say(f"seed {config.seed}: pretraining without labels, {config.steps} steps, in {run}")
    pretraining_s = train(config, run)
    probed = partial(_probe_backbone, world, config)
    found = _probe(world, PIXELS, {kind: pixel_statistics(part.frames_NCTHW) for kind, part in _parts(world).items()})
    found += probed(UNTRAINED, first_backbone(config))
    looks = [
        (checkpoint_files.step_of(path), probed(objective, _backbone_at(path, config)))
        for path in reversed(checkpoint_files.checkpoints_in(RunFolder(run).checkpoints))
    ]
    found += looks[-1][1]
    _say(f"seed {config.seed}: the same network with labels")
    start_s = time.monotonic()
    with pulse("steps with labels") as beat:
        assert isinstance(config.objective, SvtSpec)
        labelled = train_with_labels(config, config.objective.global_view.crop, beat)
    labels_s = time.monotonic() - start_s
    found += probed(LABELLED, labelled)
    curve = tuple((step, finding) for step, all_found in looks for finding in all_found)
    result = SeedResult(settings, tuple(found), curve, pretraining_s, labels_s)
    write_whole(run / _RESULT, json.dumps(asdict(result), indent=1) + "\n")
    return result


def _parts(world: World) -> dict[str, Clips]:
    return {SPLITS[0]: world.train, **world.tests}


def _probe(world: World, name: str, features: dict[str, Tensor]) -> list[Finding]:
    found = []
    for factor, names in FACTORS.items():
        known = {kind: Known(features[kind], clips.labels[factor]) for kind, clips in _parts(world).items()}
        told = probe(known.pop(SPLITS[0]), known, len(names))
        found += [Finding(name, factor, kind, **asdict(accuracy)) for kind, accuracy in told.items()]
    return found


def _probe_backbone(world: World, config: RunConfig, name: str, backbone: Backbone) -> list[Finding]:
    normalise = config.objective.normalisation
    features = {kind: pooled(backbone, clips.frames_NCTHW, normalise) for kind, clips in _parts(world).items()}
    return _probe(world, name, features)


def _backbone_at(checkpoint: Path, config: RunConfig) -> Backbone:
    """Load the backbone of the network that the objective says to take away."""
    prefix = f"{config.objective.parts[0]}.backbone."
    index = checkpoint_files.read_index(checkpoint)
    files = sorted(name for name in index.files if name.startswith("weights-"))
    tensors = {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint_files.read_tensors(checkpoint, files)
        if name.startswith(prefix)
    }
    backbone = config.backbone.build()
    backbone.load_state_dict(tensors)
    return backbone


def _read_result(run: Path, settings: dict[str, Any]) -> SeedResult | None:
    path = run / _RESULT
    if not path.exists():
        return None
    kept = json.loads(path.read_bytes())
    if kept["config"] != settings:
        return None
    found = tuple(Finding(**finding) for finding in kept["findings"])
    curve = tuple((step, Finding(**finding)) for step, finding in kept["curve"])
    return SeedResult(kept["config"], found, curve, kept["pretraining_s"], kept["labels_s"])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
