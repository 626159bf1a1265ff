"""Does SVT learn? Pretrains on synthetic clips without labels, and probes the features for each factor.

Every seed is a run of its own with the real engine. Its features, those of the same network untrained, those of the
same network trained with labels, and pixel statistics are probed in the same way.
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

from benchmarks.learning.baselines import initial_backbone, pixel_statistics, pooled, train_with_labels
from benchmarks.learning.experiment import train
from benchmarks.learning.probes import LabelledFeatures, probe
from benchmarks.learning.synthetic_clips import FACTORS, Clips, make_shards, read_clips
from trichord.core.console import pulse
from trichord.core.files import write_whole
from trichord.core.run_folder import RunFolder
from trichord.pretrain.backbones.base import Backbone
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine import checkpoint_files
from trichord.pretrain.objectives.svt import SvtSpec
from trichord.pretrain.recipe import load_recipe

RECIPES = {"svt": "svt_synthetic"}
PIXELS, UNTRAINED, LABELLED = "pixel statistics", "untrained", "trained with labels"
PROBES_PER_RUN = 4  # how often the features are probed during a run
SPLITS = ("train", "test")
SEEN, HELD_OUT = "seen", "held out"  # combinations of shape, colour and action
_RESULT = "learning.json"


@dataclass(frozen=True)
class Finding:
    """The accuracy on test clips from some features."""

    features: str
    factor: str
    clips: str  # SEEN or HELD_OUT
    knn: float
    linear: float


@dataclass(frozen=True)
class SeedResult:
    """The result and the settings of one seed; the curve is that of the pretrained features during the run."""

    config: dict[str, Any]
    findings: tuple[Finding, ...]
    curve: tuple[tuple[int, Finding], ...]  # with the step
    pretraining_s: float
    labels_s: float


@dataclass(frozen=True)
class ProbedClips:
    """The clips that are probed, and the folder of the shards that are trained on."""

    shards: Path
    train: Clips
    tests: dict[str, Clips]


def learn(
    out: Path, objective: str, seeds: Sequence[int], clips: int, overrides: Sequence[str]
) -> tuple[ProbedClips, list[SeedResult]]:
    """Run all seeds, except those that an earlier call with the same settings finished."""
    configs = [_configure(out, objective, seed, overrides) for seed in seeds]
    probed = prepare_clips(out, clips, configs[0])
    return probed, [_learn_seed(out, objective, config, clips, probed) for config in configs]


def prepare_clips(out: Path, count: int, config: RunConfig) -> ProbedClips:
    """Generate the clips, unless they exist, and decode those that are probed."""
    shards = make_shards(out, count)
    train, test = (read_clips(shards / split, config.backbone.frames, config.backbone.size) for split in SPLITS)
    return ProbedClips(shards, train, {SEEN: test.where(~test.held_out_N), HELD_OUT: test.where(test.held_out_N)})


def _configure(out: Path, objective: str, seed: int, overrides: Sequence[str]) -> RunConfig:
    own = (f"data.sources={json.dumps(str(out / 'shards' / SPLITS[0]))}", f"seed={seed}")
    config = load_recipe(RECIPES[objective], (*overrides, *own)).config
    every = -(-config.steps // PROBES_PER_RUN)
    kept = config.checkpoints.model_copy(update={"every_steps": every, "every_s": None, "keep_every_steps": every})
    return config.model_copy(update={"checkpoints": kept})


def _learn_seed(out: Path, objective: str, config: RunConfig, clips: int, probed: ProbedClips) -> SeedResult:
    run = out / f"{objective}_seed_{config.seed}"
    settings = {**config.model_dump(mode="json"), "clips": clips}
    kept = _read_result(run, settings)
    if kept:
        _log(f"seed {config.seed}: finished before, kept in {run}")
        return kept
    _log(f"seed {config.seed}: pretraining without labels, {config.steps} steps, in {run}")
    pretraining_s = train(config, run)
    probe_backbone = partial(_probe_backbone, probed, config)
    found = _probe(probed, PIXELS, {kind: pixel_statistics(part.frames_NCTHW) for kind, part in _parts(probed).items()})
    found += probe_backbone(UNTRAINED, initial_backbone(config))
    probes = [
        (checkpoint_files.step_of(path), probe_backbone(objective, _backbone_at(path, config)))
        for path in reversed(checkpoint_files.checkpoints_in(RunFolder(run).checkpoints))
    ]
    found += probes[-1][1]
    _log(f"seed {config.seed}: the same network with labels")
    start_s = time.monotonic()
    with pulse("steps with labels") as beat:
        assert isinstance(config.objective, SvtSpec)
        labelled = train_with_labels(config, config.objective.global_view.crop, beat)
    labels_s = time.monotonic() - start_s
    found += probe_backbone(LABELLED, labelled)
    curve = tuple((step, finding) for step, all_found in probes for finding in all_found)
    result = SeedResult(settings, tuple(found), curve, pretraining_s, labels_s)
    write_whole(run / _RESULT, json.dumps(asdict(result), indent=1) + "\n")
    return result


def _parts(probed: ProbedClips) -> dict[str, Clips]:
    return {SPLITS[0]: probed.train, **probed.tests}


def _probe(probed: ProbedClips, name: str, features: dict[str, Tensor]) -> list[Finding]:
    found = []
    for factor, names in FACTORS.items():
        known = {kind: LabelledFeatures(features[kind], clips.labels[factor]) for kind, clips in _parts(probed).items()}
        accuracies = probe(known.pop(SPLITS[0]), known, len(names))
        found += [Finding(name, factor, kind, **asdict(accuracy)) for kind, accuracy in accuracies.items()]
    return found


def _probe_backbone(probed: ProbedClips, config: RunConfig, name: str, backbone: Backbone) -> list[Finding]:
    normalise = config.objective.normalisation
    features = {kind: pooled(backbone, clips.frames_NCTHW, normalise) for kind, clips in _parts(probed).items()}
    return _probe(probed, name, features)


def _backbone_at(checkpoint: Path, config: RunConfig) -> Backbone:
    """Load the backbone of the network that the objective exports."""
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


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
