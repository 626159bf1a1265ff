"""Heads on backbones that were pretrained on other clips, each once, and on the same network untrained."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.learning.experiment import UNTRAINED, Rows, Seed, WayResult, learn_way, train
from benchmarks.learning.synthetic_clips import HeadShards
from trichord.finetune.config import FinetuneConfig
from trichord.finetune.features.computing import fill
from trichord.finetune.recipe import load_finetune_recipe
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine.distributed import join_world
from trichord.pretrain.recipe import load_recipe

SVT, VIDEO_TEXT = "SVT", "video and text"
# SVT uses no labels; video and text uses captions and the names of actions. Both use one backbone and the same clips.
RECIPES: dict[str, tuple[str, ...]] = {SVT: ("svt_synthetic", "steps=300"), VIDEO_TEXT: ("transfer_synthetic",)}
_PREFIX = "pretraining."  # of settings that are not those of the head


class PretrainedBackbones:
    """The backbones of one seed, and the configs of heads on them."""

    def __init__(self, out: Path, shards: HeadShards, seed: int, overrides: Sequence[str]) -> None:
        self.shards, self.seed = shards, seed
        self._out, (self._pretraining, self._head) = out / "pretraining", split_overrides(overrides)

    def pretrain(self, ways: Iterable[str]) -> None:
        """Pretrain in these ways, or continue to; finished runs are kept."""
        for way in ways:
            train(self._configure(way), self.run(way))

    def run(self, way: str) -> Path:
        """Return the folder in which a backbone is pretrained."""
        return self._out / run_name(way, self.seed)

    def head_config(self, way: str, recipe: str, settings: Sequence[str] = ()) -> FinetuneConfig:
        """Return the config of a recipe on a pretrained backbone, or on the same network at init."""
        init = self._untrained() if way == UNTRAINED else [f"init_from.path={json.dumps(str(self.run(way)))}"]
        own = (f"data.sources={json.dumps(self.shards.train)}", f"seed={self.seed}", *init, *settings)
        return load_finetune_recipe(recipe, (*own, *self._head)).config

    def _untrained(self) -> list[str]:
        config = self._configure(VIDEO_TEXT)
        backbone = json.dumps(config.backbone.model_dump(mode="json"))
        normalisation = json.dumps(config.objective.normalisation.model_dump(mode="json"))
        return ["init_from=null", f"backbone={backbone}", f"objective.normalisation={normalisation}"]

    def _configure(self, way: str) -> RunConfig:
        recipe, *own = RECIPES[way]
        given = (*own, f"data.sources={json.dumps(self.shards.pretraining)}", f"seed={self.seed}")
        return load_recipe(recipe, (*given, *self._pretraining)).config


class HeadTask(NamedTuple):
    """What is trained on which backbones, and how a run of it is tested on shards."""

    recipe: str
    settings: tuple[str, ...]  # that differ from the recipe
    folder: str
    ways: tuple[str, ...]
    test: Callable[[FinetuneConfig, Path, str], dict[str, float]]


def learn(out: Path, task: HeadTask, shards: HeadShards, seeds: Sequence[int], overrides: Sequence[str]) -> list[Seed]:
    """Run all seeds in all ways, except those that an earlier call with the same settings finished."""
    results: list[Seed] = []
    for seed in seeds:
        backbones = PretrainedBackbones(out, shards, seed, overrides)
        backbones.pretrain(way for way in task.ways if way != UNTRAINED)
        found: dict[str, WayResult] = {}
        for way in task.ways:
            run = out / task.folder / run_name(way, seed)
            config = backbones.head_config(way, task.recipe, (*task.settings, keep_features(run)))
            found[way] = learn_head(config, run, shards.test, task.test)
        results.append(found)
    return results


def keep_features(run: Path) -> str:
    """Return the setting by which a run keeps the features of its frozen backbone."""
    return f"features={json.dumps(str(run / 'features'))}"


def learn_head(
    config: FinetuneConfig, run: Path, data: str, test: Callable[[FinetuneConfig, Path, str], dict[str, float]]
) -> WayResult:
    """Train and test a head, or load the result of an earlier call with the same settings."""
    if config.features is not None:
        fill(config, join_world())
    return learn_way(config, run, config.model_dump(mode="json"), lambda _: test(config, run, data))


def interval_rows(seeds: Sequence[int], results: Sequence[Seed], names: Iterable[str]) -> Rows:
    """Return the figures of each seed with their bootstrap intervals over videos, in per cent."""
    return [
        {"seed": seed, "figure": name, **{way: _with_ends(each.figures, name) for way, each in found.items()}}
        for seed, found in zip(seeds, results, strict=True)
        for name in names
    ]


def ends(name: str) -> tuple[str, str]:
    """Return the names of the ends of a figure's interval."""
    return f"{name}, low", f"{name}, high"


def _with_ends(figures: dict[str, float], name: str) -> str:
    value, low, high = (100 * figures[key] for key in (name, *ends(name)))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def run_name(name: str, seed: int) -> str:
    """Return the name of the folder of a run."""
    return f"{name.replace(',', '').replace(' ', '_')}_seed_{seed}"


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split overrides into those of pretraining, such as pretraining.steps=100, and those of the head."""
    pretraining = [each.removeprefix(_PREFIX) for each in overrides if each.startswith(_PREFIX)]
    return pretraining, [each for each in overrides if not each.startswith(_PREFIX)]
