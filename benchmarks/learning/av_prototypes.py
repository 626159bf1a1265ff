"""Do sound and sight teach each other? Audio-visual pretraining on the generated world, whose things can be heard.

Each seed is trained several ways through the real engine: as the recipe says, by contrast of clips alone, by XDC's
labels, and with sounds taken from other clips, which must teach nothing. Asked is of clips that were never trained on:
which sound belongs to which picture, and what the features of each sense know of every factor.
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

from benchmarks.learning.probes import Known, probe
from benchmarks.learning.ways import UNTRAINED, WayResult, learn_way
from benchmarks.learning.world_clips import FACTORS, RULES, FactorTransform, make_shards
from trichord.pretrain.clustering.health import health
from trichord.pretrain.clustering.lloyd import cluster
from trichord.pretrain.clustering.rows import TensorRows
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine.training import build
from trichord.pretrain.objectives.av_prototypes import AvPrototypesSpec
from trichord.pretrain.objectives.av_prototypes.feature_pass import unaltered
from trichord.pretrain.objectives.av_prototypes.objective import AvPrototypes
from trichord.pretrain.objectives.base import Objective, StepOutput
from trichord.pretrain.recipe import load_recipe
from trichord.pretrain.retrieval.ranks import MEDIAN, RECALLS, own_ranks, rank_figures
from trichord.pretrain.retrieval.tiles import Side
from trichord.shards.reading.batch import Batch
from trichord.shards.reading.evaluation import evaluation_batches
from trichord.shards.reading.stream_config import SourceConfig, StreamConfig
from trichord.shards.synthetic import SIZES

RECIPE = "av_world"
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
AUDIBLE = {**FACTORS, "size": tuple(SIZES)}  # colour alone is not
MODALITIES = ("video", "audio")
CLUSTERS = 64
_AT_ONCE = 64


class Mismatched(AvPrototypes):
    """The control: every clip is given the sound of another one of its batch, which is another one each time."""

    def training_step(self, batch: Batch, step: int) -> StepOutput:
        audio = [sounds_BTM.roll(1, 0) for sounds_BTM in batch["audio"]]
        rolled = Batch(**{**batch, "audio": audio, "audio_present": batch["audio_present"].roll(1)})
        return super().training_step(rolled, step)


class MismatchedConfig(RunConfig):
    """A run of the control."""

    def build_objective(self) -> Objective:
        assert isinstance(self.objective, AvPrototypesSpec) and self.audio_backbone is not None
        towers = self.backbone.build(), self.audio_backbone.build()
        return Mismatched(self.objective, *towers, self.stream())


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
    """Run all seeds all ways, or those that an earlier call with the same settings has not finished."""
    shards = make_shards(out, clips, AUDIBLE_RULES)
    first = _configure(out, seeds[0], overrides)
    parts = {split: read_clips(shards / split, first) for split in ("train", "test")}
    return parts, [_learn_seed(out, seed, clips, overrides, parts) for seed in seeds]


def read_clips(root: Path, config: RunConfig) -> AvClips:
    """Decode all clips of a split, whole and unaltered."""
    assert isinstance(config.objective, AvPrototypesSpec)
    stream = StreamConfig(sources=(SourceConfig(root=str(root)),), batch_size=_AT_ONCE)
    kept: dict[str, list[Tensor]] = {"video": [], "audio": [], "present": [], "labels": []}
    with contextlib.closing(
        evaluation_batches(stream, FactorTransform(unaltered(config.objective), AUDIBLE))
    ) as batches:
        for batch in batches:
            valid = batch["valid"]
            kept["video"].append(batch["video"][0][valid])
            kept["audio"].append(batch["audio"][0][valid])
            kept["present"].append(batch["audio_present"][valid])
            kept["labels"].append(torch.tensor([each for each, ok in zip(batch["labels"], valid, strict=True) if ok]))
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
            config = MismatchedConfig.model_validate(config.model_dump())
        run = out / f"{way.replace(' ', '_')}_seed_{seed}"
        settings = {**config.model_dump(mode="json"), "clips": clips, "way": way}
        found[way] = learn_way(config, run, settings, partial(_figures, parts=parts))
    return found


@torch.no_grad()
def _features(objective: Objective, clips: AvClips) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Give each sense's pooled vectors, and its embeddings."""
    assert isinstance(objective, AvPrototypes)
    objective.eval()
    pooled: dict[str, list[Tensor]] = {sense: [] for sense in MODALITIES}
    unit: dict[str, list[Tensor]] = {sense: [] for sense in MODALITIES}
    for frames_BCTHW, sounds_BTM in zip(
        clips.frames_NCTHW.split(_AT_ONCE), clips.sounds_NTM.split(_AT_ONCE), strict=True
    ):
        inputs = {"video": objective.spec.normalisation(frames_BCTHW), "audio": sounds_BTM}
        for sense in MODALITIES:
            tower = objective.get_submodule(sense)
            pooled[sense].append(tower.backbone(inputs[sense], pooled_only=True).pooled_BD)  # type: ignore[operator]
            unit[sense].append(tower(inputs[sense]).unit_BD)
    return tuple({sense: torch.cat(each) for sense, each in kind.items()} for kind in (pooled, unit))  # type: ignore


def _figures(objective: Objective, parts: Mapping[str, AvClips]) -> dict[str, float]:
    """Measure everything of a network."""
    of_part = {name: _features(objective, clips) for name, clips in parts.items()}
    heard = {name: clips.present_N for name, clips in parts.items()}
    unit = {sense: each[heard["test"]] for sense, each in of_part["test"][1].items()}
    found: dict[str, float] = {}
    if unit["video"].shape[1] == unit["audio"].shape[1] and objective.spec.embedding_dim is not None:  # type: ignore
        found |= retrieval(unit["audio"], unit["video"], "audio to video")
        found |= retrieval(unit["video"], unit["audio"], "video to audio")
    for sense in MODALITIES:
        chosen = heard if sense == "audio" else {name: torch.ones_like(each) for name, each in heard.items()}
        told = {name: of_part[name][0][sense][chosen[name]] for name in parts}
        truths = {name: {f: each[chosen[name]] for f, each in clips.labels.items()} for name, clips in parts.items()}
        for factor, names in AUDIBLE.items():
            known = {name: Known(told[name], truths[name][factor]) for name in parts}
            accuracy = probe(known["train"], {"test": known["test"]}, len(names))["test"]
            found[f"{sense}: {factor}, linear"] = accuracy.linear
        rows = TensorRows(torch.nn.functional.normalize(told["train"], dim=1))
        clusters = cluster(rows, CLUSTERS, seed=0)
        found |= {
            f"{sense}: {name.replace('_', ' of ')}": value
            for name, value in health(clusters.labels_N.long(), CLUSTERS, None, truths["train"]).items()
            if name.startswith("purity")
        }
    return found


def retrieval(queries_MD: Tensor, targets_MD: Tensor, name: str) -> dict[str, float]:
    """Give R@1, R@5, R@10 and the median rank of each query's own target; of equals, half are in front of it."""
    clips_M = torch.arange(len(queries_MD))
    found = rank_figures(own_ranks(Side(queries_MD, clips_M), Side(targets_MD, clips_M)))
    return {f"{name}, {figure}": found[figure] for figure in (*(f"R@{k}" for k in RECALLS), MEDIAN)}
