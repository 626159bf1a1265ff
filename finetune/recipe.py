"""Recipes for heads: what they leave out follows from the run whose weights they take, and from the shards."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trichord.core.errors import UserError
from trichord.core.run_folder import RunFolder
from trichord.finetune.config import FinetuneConfig
from trichord.finetune.tasks.registry import TASKS
from trichord.pretrain.recipe import Floor, Layers, Resolved, class_names, given, resolve
from trichord.pretrain.recipe_file import list_recipes, read_recipe, read_yaml

# What must be as it was in pretraining, for the backbone learnt with it.
_OF_VIDEO, _OF_AUDIO = ("normalisation",), ("sound", "sound_seconds")


def load_finetune_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Resolved[FinetuneConfig]:
    """Resolve a recipe of this floor with the overrides laid over it."""
    return resolve(FINETUNING, name_or_path, overrides)


def is_for_heads(name: str) -> bool:
    """Say whether a recipe is one of this floor: by its name, or by what its file or the one below it says."""
    shipped = list_recipes(FINETUNING.recipes)
    if name in shipped or not Path(name).is_file():
        return name in shipped
    tree = read_recipe(Path(name))
    return (tree.get("objective") or {}).get("kind") in TASKS or tree.get("base") in shipped


def read_run(run: Path) -> dict[str, Any]:
    """Read the settings that a run keeps in its folder."""
    path = RunFolder(run).config
    try:
        found = read_yaml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise UserError(f"{run} is no folder of a run: {error}. Expected {path}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no settings; expected those that a run writes at its start")
    return found


def load_tested(run: Path, data: Sequence[str], overrides: Sequence[str], batch_size: int = 8) -> FinetuneConfig:
    """Return a run's settings with other shards in the place of its own, and the batches of its test."""
    if any(override.partition("=")[0] == "data.batch_size" for override in overrides):
        raise UserError("data.batch_size is that of training; a test has batches of its own: --batch-size N")
    tree = read_run(run)
    kind = (tree.get("objective") or {}).get("kind")
    if kind not in TASKS:
        by_texts = f", or ask it by texts: trichord zeroshot --data SHARDS --weights {run}"
        raise UserError(
            f"{run} is a run of {kind}, which gives no classes. Put a head on it: trichord finetune linear_probe "
            f"init_from.path={run} data.sources=SHARDS{by_texts if kind == 'video_text' else ''}"
        )
    sources = [f"data.sources={list(data)}"] if data else []
    # What is kept is of training clips.
    config = load_finetune_recipe(RunFolder(run).config, [*sources, "features=null", *overrides]).config
    if not data:
        print("note: these are the clips that it was trained on; --data SHARDS names others", file=sys.stderr)
    config.objective.check(config)
    # What training asks of its batches, such as to be shared by lanes, is not asked of a test's.
    return config.model_copy(update={"data": config.data.model_copy(update={"batch_size": batch_size})})


def _derive(layers: Layers) -> Layers:
    """Give the backbones of runs whose weights are taken, views of their size, and the classes of the shards."""
    found: Layers = []
    # A layer that does not say so would give way to a recipe that does.
    task = {"kind": given(layers, "objective.kind") or "classification"}
    inputs = given(layers, "objective.inputs") or ("video",)
    for sense, init, backbone, kept in (
        ("video", "init_from", "backbone", _OF_VIDEO),
        ("audio", "audio_init_from", "audio_backbone", _OF_AUDIO),
    ):
        path = given(layers, f"{init}.path")
        if sense in inputs and isinstance(path, str) and RunFolder(Path(path)).is_run:
            found.append((f"run {path}", _of_run(read_run(Path(path)), sense, backbone, kept, task)))
    sources = given(layers, "data.sources")
    if task["kind"] == "classification" and sources is not None and given(layers, "objective.classes") is None:
        found += _classes(sources, task)
    return found


def _of_run(
    tree: dict[str, Any], sense: str, backbone: str, kept: Sequence[str], task: Mapping[str, Any]
) -> dict[str, Any]:
    learnt = tree["objective"]
    if tree.get(backbone) is None:
        raise UserError(f"the run has no {backbone}, and the weights of one are asked for. It has {_backbones(tree)}")
    objective = {**task, **{name: learnt[name] for name in kept if learnt.get(name) is not None}}
    return {backbone: tree[backbone], "objective": objective, "pretrained": learnt["kind"]}


def _backbones(tree: dict[str, Any]) -> str:
    return " and ".join(name for name in ("backbone", "audio_backbone") if tree.get(name)) or "none"


def _fit(layers: Layers) -> Layers:
    """Let views have the frames and the size that the backbone is made for, where nothing says others."""
    frames, size = given(layers, "backbone.frames"), given(layers, "backbone.size")
    places: list[tuple[tuple[str, ...], str, Any]] = [
        *((("objective", clips), "frames", frames) for clips in ("clips", "test_clips")),
        *((("objective", view, "crop"), "size", size) for view in ("view", "test_view")),
    ]
    found: Layers = []
    for place, name, value in places:
        kind, is_said = _kind_at(layers, place, name)
        if value is not None and kind not in (None, "full", "svt") and not is_said:
            tree: dict[str, Any] = {"kind": kind, name: value}
            for part in reversed(place):
                tree = {part: tree}
            found.append(("backbone", tree))
    return found


def _kind_at(layers: Layers, place: Sequence[str], name: str) -> tuple[str | None, bool]:
    """Give the kind of what stands at a place in the end, and whether a name of that kind is given there."""
    kind, is_said = None, False
    for _, layer in layers:
        tree: Any = layer
        for part in place:
            tree = tree.get(part) if isinstance(tree, dict) else None
        if isinstance(tree, dict):
            is_said = is_said and tree.get("kind", kind) == kind
            kind = tree.get("kind", kind)
            is_said = is_said or name in tree
    return kind, is_said


def _classes(sources: Any, task: Mapping[str, Any]) -> Layers:
    named = class_names(sources)
    return [(f"shards {named[0]}", {"objective": {**task, "classes": list(named[1])}})] if named else []


FINETUNING = Floor(
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
)
