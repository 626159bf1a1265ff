"""Does audio-visual pretraining learn? Pretrains on synthetic clips whose objects make sounds.

Each seed is trained in several ways with the real engine: by the recipe, by contrast of clips alone, by the labels of
XDC, and, as a control, with the sounds of other clips. On unseen clips it is measured how well sounds and frames are
retrieved by each other, and how well each factor can be predicted from the features of each modality.
Legend: N clips, M test clips, D features.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.learning.experiment import (
    UNTRAINED,
    Rows,
    Seed,
    WayResult,
    check_goals,
    learn_way,
    rank_row,
    report,
    row,
)
from benchmarks.learning.probes import LabelledFeatures, probe
from benchmarks.learning.svt_report import most_common_share
from benchmarks.learning.synthetic_clips import FACTORS, RULES, FactorTransform, make_shards
from trichord.pretrain.clustering.health import health
from trichord.pretrain.clustering.lloyd import cluster
from trichord.pretrain.clustering.rows import TensorRows
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine.training import build
from trichord.pretrain.objectives.av_prototypes import AvPrototypesSpec
from trichord.pretrain.objectives.av_prototypes.objective import AvPrototypes
from trichord.pretrain.objectives.av_prototypes.rounds import unaltered
from trichord.pretrain.objectives.base import Objective, StepOutput
from trichord.pretrain.recipe import load_recipe
from trichord.pretrain.retrieval.ranks import MEDIAN, RECALLS, own_ranks, rank_figures
from trichord.pretrain.retrieval.scores import Side
from trichord.shards.reading.batch import Batch
from trichord.shards.reading.evaluation import evaluation_batches
from trichord.shards.reading.stream_config import SourceConfig, StreamConfig
from trichord.shards.synthetic import SIZES

RECIPE = "av_synthetic"
AUDIBLE_RULES = RULES.model_copy(update={"silent_share": 0.1})
PROTOTYPES, INSTANCES, XDC, SHUFFLED = (
    "prototypes",
    "contrast of clips alone",
    "XDC",
    "sounds shuffled",
)
WAYS: dict[str, tuple[str, ...]] = {
    PROTOTYPES: (),
    INSTANCES: ("objective.target=null",),
    XDC: (
        "objective.target={kind: labels, clusters: [64], rounds: {source: pass, every_steps: 60, samples: 1664}}",
        "objective.target_weight=1.0",
        "objective.cross_weight=0.0",
        "objective.embedding_dim=null",
    ),
    SHUFFLED: (),
}
AUDIBLE = {**FACTORS, "size": tuple(SIZES)}  # colour cannot be heard
MODALITIES = ("video", "audio")
CLUSTERS = 64
ALL_WAYS = (UNTRAINED, *WAYS)
DIRECTIONS = ("audio to video", "video to audio")
GOALS = (
    *((PROTOTYPES, other, f"{way}, R@10") for other in (UNTRAINED, SHUFFLED) for way in DIRECTIONS),
    *((ours, UNTRAINED, f"{modality}: action, linear") for ours in (PROTOTYPES, XDC) for modality in MODALITIES),
    (PROTOTYPES, INSTANCES, "audio: purity of action"),
)
_AT_ONCE = 64


class ShuffledSounds(AvPrototypes):
    """The control: every clip has the sound of another clip of its batch, a different one each time."""

    def training_step(self, batch: Batch, step: int) -> StepOutput:
        audio = [sounds_BTM.roll(1, 0) for sounds_BTM in batch.audio]
        rolled = batch.replace(audio=audio, audio_present=batch.audio_present.roll(1))
        return super().training_step(rolled, step)


class ShuffledSoundsConfig(RunConfig):
    """A run of the control."""

    def build_objective(self) -> Objective:
        assert isinstance(self.objective, AvPrototypesSpec) and self.audio_backbone is not None
        towers = self.backbone.build(), self.audio_backbone.build()
        return ShuffledSounds(self.objective, *towers, self.stream())


@dataclass(frozen=True)
class AvClips:
    """Decoded clips of a split with their sounds, and the class of each by factor."""

    frames_NCTHW: Tensor
    sounds_NTM: Tensor
    present_N: Tensor
    labels: Mapping[str, Tensor]


def learn(
    out: Path, seeds: Sequence[int], clips: int, overrides: Sequence[str]
) -> tuple[dict[str, AvClips], list[dict[str, WayResult]]]:
    """Run all seeds in all ways, except those that an earlier call with the same settings finished."""
    shards = make_shards(out, clips, AUDIBLE_RULES)
    first = _configure(out, seeds[0], overrides)
    parts = {split: read_clips(shards / split, first) for split in ("train", "test")}
    return parts, [_learn_seed(out, seed, clips, overrides, parts) for seed in seeds]


def read_clips(root: Path, config: RunConfig) -> AvClips:
    """Decode all clips of a split, uncropped and without augmentation."""
    assert isinstance(config.objective, AvPrototypesSpec)
    stream = StreamConfig(sources=(SourceConfig(root=str(root)),), batch_size=_AT_ONCE)
    kept: dict[str, list[Tensor]] = {"video": [], "audio": [], "present": [], "labels": []}
    with contextlib.closing(
        evaluation_batches(stream, FactorTransform(unaltered(config.objective), AUDIBLE))
    ) as batches:
        for batch in batches:
            valid = batch.valid
            kept["video"].append(batch.video[0][valid])
            kept["audio"].append(batch.audio[0][valid])
            kept["present"].append(batch.audio_present[valid])
            kept["labels"].append(torch.tensor([each for each, ok in zip(batch.labels, valid, strict=True) if ok]))
    video, audio, present, labels = (torch.cat(each) for each in kept.values())
    return AvClips(video, audio, present, {factor: labels[:, column] for column, factor in enumerate(AUDIBLE)})


def _configure(out: Path, seed: int, overrides: Sequence[str]) -> RunConfig:
    own = (f"data.sources={json.dumps(str(out / 'shards' / 'train'))}", f"seed={seed}")
    return load_recipe(RECIPE, (*overrides, *own)).config


def _learn_seed(
    out: Path, seed: int, clips: int, overrides: Sequence[str], parts: Mapping[str, AvClips]
) -> dict[str, WayResult]:
    found = {UNTRAINED: WayResult({}, _figures(build(_configure(out, seed, overrides)), parts))}
    for way, changes in WAYS.items():
        config = _configure(out, seed, (*changes, *overrides))
        if way == SHUFFLED:
            config = ShuffledSoundsConfig.model_validate(config.model_dump())
        run = out / f"{way.replace(' ', '_')}_seed_{seed}"
        settings = {**config.model_dump(mode="json"), "clips": clips, "way": way}
        found[way] = learn_way(config, run, settings, partial(_figures, parts=parts))
    return found


@torch.no_grad()
def _features(objective: Objective, clips: AvClips) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the pooled vectors and the embeddings of each modality."""
    assert isinstance(objective, AvPrototypes)
    objective.eval()
    pooled: dict[str, list[Tensor]] = {modality: [] for modality in MODALITIES}
    unit: dict[str, list[Tensor]] = {modality: [] for modality in MODALITIES}
    for frames_BCTHW, sounds_BTM in zip(
        clips.frames_NCTHW.split(_AT_ONCE), clips.sounds_NTM.split(_AT_ONCE), strict=True
    ):
        inputs = {"video": objective.spec.normalisation(frames_BCTHW), "audio": sounds_BTM}
        for modality in MODALITIES:
            tower = objective.get_submodule(modality)
            pooled[modality].append(tower.backbone(inputs[modality], pooled_only=True).pooled_BD)  # type: ignore[operator]
            unit[modality].append(tower(inputs[modality]).unit_BD)
    return tuple({modality: torch.cat(each) for modality, each in kind.items()} for kind in (pooled, unit))  # type: ignore


def _figures(objective: Objective, parts: Mapping[str, AvClips]) -> dict[str, float]:
    """Compute all figures of a network."""
    of_part = {name: _features(objective, clips) for name, clips in parts.items()}
    audible = {name: clips.present_N for name, clips in parts.items()}
    unit = {modality: each[audible["test"]] for modality, each in of_part["test"][1].items()}
    found: dict[str, float] = {}
    if unit["video"].shape[1] == unit["audio"].shape[1] and objective.spec.embedding_dim is not None:  # type: ignore
        found |= retrieval(unit["audio"], unit["video"], "audio to video")
        found |= retrieval(unit["video"], unit["audio"], "video to audio")
    for modality in MODALITIES:
        chosen = audible if modality == "audio" else {name: torch.ones_like(each) for name, each in audible.items()}
        features = {name: of_part[name][0][modality][chosen[name]] for name in parts}
        truths = {name: {f: each[chosen[name]] for f, each in clips.labels.items()} for name, clips in parts.items()}
        for factor, names in AUDIBLE.items():
            known = {name: LabelledFeatures(features[name], truths[name][factor]) for name in parts}
            accuracy = probe(known["train"], {"test": known["test"]}, len(names))["test"]
            found[f"{modality}: {factor}, linear"] = accuracy.linear
        rows = TensorRows(torch.nn.functional.normalize(features["train"], dim=1))
        clusters = cluster(rows, CLUSTERS, seed=0)
        found |= {
            f"{modality}: {name.replace('_', ' of ')}": value
            for name, value in health(clusters.labels_N.long(), CLUSTERS, None, truths["train"]).items()
            if name.startswith("purity")
        }
    return found


def retrieval(queries_MD: Tensor, targets_MD: Tensor, name: str) -> dict[str, float]:
    """Return R@1, R@5, R@10 and the median rank of the right target; half of the equal scores rank before it."""
    clips_M = torch.arange(len(queries_MD))
    found = rank_figures(own_ranks(Side(queries_MD, clips_M), Side(targets_MD, clips_M)))
    return {f"{name}, {figure}": found[figure] for figure in (*(f"R@{k}" for k in RECALLS), MEDIAN)}


def run_and_report(out: Path, seeds: Sequence[int], clips: int, overrides: Sequence[str]) -> dict[str, Rows]:
    """Run the experiment, write everything to results.json, and return the tables by title."""
    parts, results = learn(out, seeds, clips, overrides)
    audible = int(parts["test"].present_N.sum())
    tables = {
        "retrieval between sounds and frames of unseen clips: mean of the seeds ± half their range": retrieval_rows(
            results, audible
        ),
        "accuracy of a linear probe on unseen clips, per cent": probe_rows(results, parts),
        "purity of 64 clusters of the training clips, per cent": purity_rows(results),
        "goals, in per cent": [check.row() for check in check_goals(results, GOALS)],
    }
    return report(out, seeds, results, tables)


def retrieval_rows(results: Sequence[Seed], clips: int) -> Rows:
    """Return recalls and median ranks among a number of clips, and their values by chance."""
    rows: Rows = []
    for direction in DIRECTIONS:
        for recall in (1, 5, 10):
            chance = f"{100 * min(1.0, recall / clips):.1f}"
            rows.append(row(results, ALL_WAYS, f"{direction}, R@{recall}", chance))
        rows.append(rank_row(results, ALL_WAYS, f"{direction}, median rank", clips))
    return rows


def probe_rows(results: Sequence[Seed], parts: Mapping[str, AvClips]) -> Rows:
    """Return the accuracies by modality and factor, and that of always predicting the most common class."""
    labels = {factor: (parts["train"].labels[factor], parts["test"].labels[factor]) for factor in AUDIBLE}
    return [
        row(results, ALL_WAYS, f"{modality}: {factor}, linear", f"{100 * most_common_share(*labels[factor]):.1f}")
        for modality in MODALITIES
        for factor in AUDIBLE
    ]


def purity_rows(results: Sequence[Seed]) -> Rows:
    """Return the purity of clusters by modality and factor."""
    return [
        row(results, ALL_WAYS, f"{modality}: purity of {factor}", "") for modality in MODALITIES for factor in AUDIBLE
    ]
