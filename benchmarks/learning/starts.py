"""What tests of heads begin from: backbones pretrained on other clips, each once, and the same network untrained."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.learning.svt_report import Rows
from benchmarks.learning.training import train
from benchmarks.learning.ways import UNTRAINED, Seed, WayResult, learn_way
from benchmarks.learning.worlds import Worlds
from trichord.finetune.config import FinetuneConfig
from trichord.finetune.features import fill
from trichord.finetune.recipe import load_finetune_recipe
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine.distributed import join_world
from trichord.pretrain.recipe import load_recipe

SVT, VIDEO_TEXT = "SVT", "video and text"
# SVT has no labels; video and text has captions and the names of actions. Both have one backbone and the same clips.
RECIPES: dict[str, tuple[str, ...]] = {SVT: ("svt_world", "steps=300"), VIDEO_TEXT: ("transfer_world",)}
_BEFORE = "pretraining."  # stands before settings that are not the head's


class Starts:
    """The backbones of one seed, and the configs of what is put on them."""

    def __init__(self, out: Path, worlds: Worlds, seed: int, overrides: Sequence[str]) -> None:
        self.worlds, self.seed = worlds, seed
        self._out, (self._before, self._after) = out / "pretraining", parted(overrides)

    def pretrain(self, ways: Iterable[str]) -> None:
        """Pretrain in these ways, or go on; what is done is kept."""
        for way in ways:
            train(self._configure(way), self.run(way))

    def run(self, way: str) -> Path:
        """Say in which folder a backbone is pretrained."""
        return self._out / folder_of(way, self.seed)

    def put_on(self, way: str, recipe: str, settings: Sequence[str] = ()) -> FinetuneConfig:
        """Give the config of a recipe on a pretrained backbone, or on the same network with fresh weights."""
        begun = self._untrained() if way == UNTRAINED else [f"init_from.path={json.dumps(str(self.run(way)))}"]
        own = (f"data.sources={json.dumps(self.worlds.train)}", f"seed={self.seed}", *begun, *settings)
        return load_finetune_recipe(recipe, (*own, *self._after)).config

    def _untrained(self) -> list[str]:
        config = self._configure(VIDEO_TEXT)
        backbone = json.dumps(config.backbone.model_dump(mode="json"))
        normalisation = json.dumps(config.objective.normalisation.model_dump(mode="json"))
        return ["init_from=null", f"backbone={backbone}", f"objective.normalisation={normalisation}"]

    def _configure(self, way: str) -> RunConfig:
        recipe, *own = RECIPES[way]
        given = (*own, f"data.sources={json.dumps(self.worlds.pretraining)}", f"seed={self.seed}")
        return load_recipe(recipe, (*given, *self._before)).config


class Task(NamedTuple):
    """What is put on backbones, on which, and how a run of it is tested on a set of shards."""

    recipe: str
    settings: tuple[str, ...]  # that differ from the recipe
    folder: str
    ways: tuple[str, ...]
    test: Callable[[FinetuneConfig, Path, str], dict[str, float]]


def learn(out: Path, task: Task, worlds: Worlds, seeds: Sequence[int], overrides: Sequence[str]) -> list[Seed]:
    """Run all seeds all ways, or those that an earlier call with the same settings has not finished."""
    results: list[Seed] = []
    for seed in seeds:
        starts = Starts(out, worlds, seed, overrides)
        starts.pretrain(way for way in task.ways if way != UNTRAINED)
        found: dict[str, WayResult] = {}
        for way in task.ways:
            run = out / task.folder / folder_of(way, seed)
            config = starts.put_on(way, task.recipe, (*task.settings, keep_features(run)))
            found[way] = learn_head(config, run, worlds.test, task.test)
        results.append(found)
    return results


def keep_features(run: Path) -> str:
    """Give the setting by which a run keeps what its frozen backbone makes of each clip."""
    return f"features={json.dumps(str(run / 'features'))}"


def learn_head(
    config: FinetuneConfig, run: Path, data: str, test: Callable[[FinetuneConfig, Path, str], dict[str, float]]
) -> WayResult:
    """Train and test a head, or take what an earlier call with the same settings found."""
    if config.features is not None:
        fill(config, join_world())
    return learn_way(config, run, config.model_dump(mode="json"), lambda _: test(config, run, data))


def interval_rows(seeds: Sequence[int], results: Sequence[Seed], names: Iterable[str]) -> Rows:
    """Give each seed's figures with what drawing the videos again leaves, in per cent."""
    return [
        {"seed": seed, "figure": name, **{way: _with_ends(each.figures, name) for way, each in found.items()}}
        for seed, found in zip(seeds, results, strict=True)
        for name in names
    ]


def ends(name: str) -> tuple[str, str]:
    """Name the ends of a figure's interval among the figures."""
    return f"{name}, low", f"{name}, high"


def _with_ends(figures: dict[str, float], name: str) -> str:
    value, low, high = (100 * figures[key] for key in (name, *ends(name)))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def folder_of(name: str, seed: int) -> str:
    """Name the folder of a run."""
    return f"{name.replace(',', '').replace(' ', '_')}_seed_{seed}"


def parted(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part what was typed into settings of pretraining, as in pretraining.steps=100, and those of what is put on it."""
    before = [each.removeprefix(_BEFORE) for each in overrides if each.startswith(_BEFORE)]
    return before, [each for each in overrides if not each.startswith(_BEFORE)]
