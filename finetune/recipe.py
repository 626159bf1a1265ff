"""Recipes for heads: settings they leave out are derived from the run whose weights they load and from the shards."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trichord.core.command import command_line
from trichord.core.errors import UserError
from trichord.core.run_folder import RunFolder
from trichord.core.yaml_subset import load_yaml
from trichord.finetune.config import FinetuneConfig
from trichord.finetune.tasks.registry import TASKS
from trichord.pretrain.config_tree import classes_in
from trichord.pretrain.objectives.registry import OBJECTIVES
from trichord.pretrain.recipe import PRETRAINING, Layers, RecipeSet, Resolved, class_names, given, resolve
from trichord.pretrain.recipe_file import list_recipes
from trichord.pretrain.show import show
from trichord.shards.transforms.clip_specs import ClipSpec

# Settings that must be the same as in pretraining, because the backbone was trained with them.
_OF_VIDEO, _OF_AUDIO = ("normalisation",), ("sound", "sound_seconds")


def load_finetune_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Resolved[FinetuneConfig]:
    """Resolve a fine-tuning recipe and apply the overrides."""
    return resolve(FINETUNING, name_or_path, overrides)


def run_show(arguments: Namespace) -> int:
    """Show a recipe for heads or for pretraining, explain a setting, or list all recipes."""
    is_finetuning = arguments.recipe is not None and is_for_heads(arguments.recipe)
    return show(arguments, (FINETUNING, PRETRAINING) if is_finetuning else (PRETRAINING, FINETUNING))


def is_for_heads(name: str) -> bool:
    """Return whether a recipe is one for fine-tuning: by its name, or by the objective or the base of its file."""
    shipped = list_recipes(FINETUNING.folder)
    if name in shipped or not Path(name).is_file():
        return name in shipped
    tree = load_yaml(Path(name))
    return kind_of(tree) in TASKS or str(tree.get("base")) in shipped


def kind_of(tree: Mapping[str, Any]) -> str | None:
    """Return the objective's kind in settings that may be of any form."""
    objective = tree.get("objective")
    kind = objective.get("kind") if isinstance(objective, dict) else None
    return kind if isinstance(kind, str) else None


def read_run(run: Path) -> dict[str, Any]:
    """Read the settings stored in a run folder."""
    path = RunFolder(run).config
    try:
        found = load_yaml(path)
    except UserError as error:
        raise UserError(f"{run} is not a run folder: {error}") from error
    if kind_of(found) is None:
        raise UserError(f"{path} names no objective.kind; expected the settings that a run writes when it starts")
    return found


def load_tested(run: Path, data: Sequence[str], overrides: Sequence[str], batch_size: int = 8) -> FinetuneConfig:
    """Return a run's settings for a test: with other shards in place of its own, and the batch size of the test."""
    if any(override.partition("=")[0] == "data.batch_size" for override in overrides):
        raise UserError("data.batch_size is for training; set the batch size of a test with --batch-size N")
    tree = read_run(run)
    kind = str(kind_of(tree))
    if kind not in TASKS:
        raise UserError(_without_head(run, kind))
    sources = [f"data.sources={list(data)}"] if data else []
    # Stored features are those of training clips.
    config = load_finetune_recipe(RunFolder(run).config, [*sources, "features=null", *overrides]).config
    if not data:
        print("note: testing on the clips that the run was trained on; --data SHARDS selects others", file=sys.stderr)
    config.objective.check(config)
    # Requirements on training batches, such as to be divisible among stream lanes, do not apply to a test.
    return config.model_copy(update={"data": config.data.model_copy(update={"batch_size": batch_size})})


def _without_head(run: Path, kind: str) -> str:
    """Return the message for a test of a run without a head, with the commands for such a run."""
    train = command_line("finetune", "linear_probe", f"init_from.path={run}", "data.sources=SHARDS")
    test = command_line("zeroshot", "--data", "SHARDS", "--weights", run)
    by_texts = f", or test it with texts: {test}" if kind in OBJECTIVES and OBJECTIVES[kind].reads_text else ""
    return f"{run} is a run of {kind}, which predicts no classes. Train a head on it: {train}{by_texts}"


def _derive(layers: Layers) -> Layers:
    """Return layers with the backbones of the runs whose weights are loaded and the classes of the shards."""
    found: Layers = []
    # A layer without the kind would be overridden by a recipe that has one.
    kind, inputs = given(layers, "objective.kind"), given(layers, "objective.inputs")
    task = {"kind": kind if isinstance(kind, str) else "classification"}  # others are refused with the config
    inputs = inputs if isinstance(inputs, list) else ("video",)
    for modality, init, backbone, inherited in (
        ("video", "init_from", "backbone", _OF_VIDEO),
        ("audio", "audio_init_from", "audio_backbone", _OF_AUDIO),
    ):
        path = given(layers, f"{init}.path")
        if modality in inputs and isinstance(path, str) and RunFolder(Path(path)).is_run:
            found.append((f"run {path}", _of_run(read_run(Path(path)), backbone, inherited, task)))
    sources = given(layers, "data.sources")
    spec = TASKS.get(task["kind"])  # an unknown kind is refused later, with the known ones
    takes_names = spec is not None and spec.takes_class_names
    if takes_names and sources is not None and given(layers, "objective.classes") is None:
        found += _classes(sources, task)
    return found


def _of_run(tree: dict[str, Any], backbone: str, inherited: Sequence[str], task: Mapping[str, Any]) -> dict[str, Any]:
    pretraining = tree["objective"]
    if tree.get(backbone) is None:
        raise UserError(f"the weights of {backbone} were requested, but the run has none. It has {_backbones(tree)}")
    objective = {**task, **{name: pretraining[name] for name in inherited if pretraining.get(name) is not None}}
    return {backbone: tree[backbone], "objective": objective, "pretrained": pretraining["kind"]}


def _backbones(tree: dict[str, Any]) -> str:
    return " and ".join(name for name in ("backbone", "audio_backbone") if tree.get(name)) or "none"


def _fit(layers: Layers) -> Layers:
    """Return layers that set the frames and the size of views to those of the backbone, where none are given."""
    frames, size = given(layers, "backbone.frames"), given(layers, "backbone.size")
    specs: list[Any] = classes_in(ClipSpec)
    fixed = [spec.model_fields["kind"].default for spec in specs if not spec.follows_backbone]
    places: list[tuple[tuple[str, ...], str, Any]] = [
        *((("objective", clips), "frames", frames) for clips in ("clips", "test_clips")),
        *((("objective", view, "crop"), "size", size) for view in ("view", "test_view")),
    ]
    found: Layers = []
    for place, name, value in places:
        kind, is_given = _kind_at(layers, place, name)
        if value is not None and kind not in (None, *fixed) and not is_given:
            tree: dict[str, Any] = {"kind": kind, name: value}
            for part in reversed(place):
                tree = {part: tree}
            found.append(("backbone", tree))
    return found


def _kind_at(layers: Layers, place: Sequence[str], name: str) -> tuple[str | None, bool]:
    """Return the final kind at a place in the tree, and whether a setting of that kind is given there."""
    kind, is_given = None, False
    for _, layer in layers:
        tree: Any = layer
        for part in place:
            tree = tree.get(part) if isinstance(tree, dict) else None
        if isinstance(tree, dict):
            is_given = is_given and tree.get("kind", kind) == kind
            kind = tree.get("kind", kind)
            is_given = is_given or name in tree
    return kind, is_given


def _classes(sources: Any, task: Mapping[str, Any]) -> Layers:
    named = class_names(sources)
    return [(f"shards {named[0]}", {"objective": {**task, "classes": list(named[1])}})] if named else []


FINETUNING = RecipeSet(
    FinetuneConfig,
    Path(__file__).parent / "recipes",
    _derive,
    _fit,
    {
        "data.sources": ["SHARDS"],
        "init_from.path": "RUN",
        "backbone": {"kind": "timesformer"},
        "objective.clips.frames": 8,
        "objective.test_clips.frames": 8,
        "objective.view.crop.size": 224,
        "objective.test_view.crop.size": 224,
        "objective.classes": ["CLASSES"],
    },
    command="finetune",
)
