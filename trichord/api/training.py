"""Training and evaluation, as the commands of the same names do it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
import torch.distributed

from trichord.api import checks
from trichord.core.command import validated
from trichord.finetune.evaluation import evaluate as heads
from trichord.finetune.features.computing import fill
from trichord.finetune.recipe import is_for_heads, load_finetune_recipe
from trichord.finetune.retrieval import evaluate as retrieval
from trichord.finetune.retrieval.embedder import Embedder
from trichord.finetune.zeroshot import evaluate as zeroshot
from trichord.finetune.zeroshot.classifier import Recogniser
from trichord.finetune.zeroshot.loading import load_video_text
from trichord.finetune.zeroshot.spec import ZeroShotSpec
from trichord.pretrain.engine.allocator import thread_plan
from trichord.pretrain.engine.distributed import World, join_world, leave_world
from trichord.pretrain.engine.run import pretrain
from trichord.pretrain.recipe import load_recipe
from trichord.shards.reading.root import allow_typed

Settings: TypeAlias = Mapping[str, object] | Sequence[str]


def train(recipe: str | Path, settings: Settings = (), *, run: str | Path | None = None) -> dict[str, object]:
    """Pretrain or fine-tune a recipe; continue from the run folder's checkpoints if it has any.

    The same as ``trichord pretrain`` and ``trichord finetune``, whose names are taken by subpackages here. Under
    torchrun or srun, every rank calls it.

    Args:
        recipe: A recipe's name, which ``trichord show`` lists, or a YAML file.
        settings: What differs from the recipe, as a mapping of dotted names or as texts such as ``"steps=100"``.
        run: Folder of the run (default: ``runs/RECIPE``).

    Returns:
        The figures of the last steps.

    Example:
        >>> figures = trichord.train(
        ...     "svt_quickstart", {"data.sources": "shards/train", "steps": 25}, run="runs/first"
        ... )
        >>> figures["loss"]
        6.93
    """
    folder = Path(run) if run is not None else Path("runs") / Path(recipe).stem
    if not is_for_heads(str(recipe)):
        config = load_recipe(recipe, _overrides(settings)).config
        with _world():
            return pretrain(config, folder)
    tuned = load_finetune_recipe(recipe, _overrides(settings)).config
    tuned.objective.check(tuned)
    with _world() as world:
        if tuned.features is not None:
            fill(tuned, world)
        return pretrain(tuned, folder)


def evaluate(
    run: str | Path,
    data: str | Path | Sequence[str | Path] = (),
    settings: Settings = (),
    *,
    name: str | None = None,
    batch_size: int = 8,
) -> dict[str, Any]:
    """Evaluate the head or captioner of a run on shards, every clip once, and write the figures into the run folder.

    Args:
        run: The run folder; its newest complete checkpoint is used.
        data: Shard sets to test on (default: those of the run).
        settings: What differs from the run's settings, such as ``{"objective.test_clips.clips": 10}``.
        name: File name of the report (default: the names of the sets).
        batch_size: Clips per batch on each rank.

    Returns:
        The report: ``["metrics"]`` holds the figures, ``["files"]`` the files written. Of several ranks, the first
        has them.

    Example:
        >>> trichord.evaluate("runs/probe", "shards/val")["metrics"]["top1"]
        45.8
    """
    checks.at_least(1, batch_size=batch_size)
    with _world():
        return heads.evaluate(Path(run), _roots(data), _overrides(settings), name, None, batch_size)


def evaluate_zeroshot(
    source: str | Path,
    data: str | Path | Sequence[str | Path],
    *,
    batch_size: int = 8,
    workers: int = 0,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Evaluate zero-shot classification on shard sets, with the names of their classes only.

    Args:
        source: A run of video and text, or a file of X-CLIP or CLIP.
        data: Shard sets, such as the three splits of HMDB-51.
        batch_size: Clips per batch on each rank.
        workers: Reader processes per rank.
        settings: Prompts, views and averaging, as for `Model.zeroshot`.

    Returns:
        A row for each set with accuracies and intervals; for several sets, also their mean and deviation.

    Example:
        >>> rows = trichord.evaluate_zeroshot("runs/video_text", "hmdb51/test", prompts="a video of {}")
        >>> rows[0]["top1"]
        44.6
    """
    spec = validated("evaluate_zeroshot", settings, ZeroShotSpec)
    checks.at_least(1, batch_size=batch_size)
    checks.at_least(0, workers=workers)
    checks.not_empty(data=_roots(data))
    question = zeroshot.ZeroShotTest(data=tuple(_roots(data)), batch_size=batch_size, workers=workers)
    with _world() as world:
        recogniser = Recogniser(load_video_text(Path(source)), world.device)
        return zeroshot.table(zeroshot.evaluate(zeroshot.EvaluatedWeights(recogniser, None, ()), spec, question, world))


def evaluate_retrieval(
    source: str | Path,
    data: str | Path | Sequence[str | Path],
    *,
    captions: Literal["all", "first"] = "all",
    bank: str | Path | Sequence[str | Path] = (),
    batch_size: int = 8,
    workers: int = 0,
) -> list[dict[str, Any]]:
    """Evaluate retrieval between videos, captions and sounds on shard sets.

    Args:
        source: A run of video and text, or a file of CLIP.
        data: Shard sets, tested together.
        captions: Whether to search with all captions of a clip, or with its first.
        bank: Training sets whose queries correct for hubs (QB-Norm).
        batch_size: Clips per batch on each rank.
        workers: Reader processes per rank.

    Returns:
        A row for each direction with recalls and ranks.

    Example:
        >>> trichord.evaluate_retrieval("runs/video_text", "msrvtt/test")[0]
        {'measured': 'text to video', 'R@1': 8.4, 'R@5': 31.2, 'R@10': 50.4, ...}
    """
    checks.at_least(1, batch_size=batch_size)
    checks.at_least(0, workers=workers)
    checks.not_empty(data=_roots(data))
    checks.one_of(("all", "first"), captions=captions)
    question = retrieval.RetrievalTest(tuple(_roots(data)), captions, tuple(_roots(bank)), batch_size, workers)
    with _world() as world:
        return retrieval.evaluate(Embedder.load(Path(source), world.device), question, world).rows()


def _roots(data: str | Path | Sequence[str | Path]) -> list[str]:
    roots = [str(data)] if isinstance(data, str | Path) else [str(each) for each in data]
    allow_typed(roots)
    return roots


def _overrides(settings: Settings) -> list[str]:
    """Return settings as the texts that the command line takes."""
    if isinstance(settings, Mapping):
        return [f"{name}={json.dumps(value, default=str)}" for name, value in settings.items()]
    return [settings] if isinstance(settings, str) else list(settings)


@contextmanager
def _world() -> Iterator[World]:
    """Join the ranks of this job; then leave a process group that was not there before, and restore torch's threads."""
    was_there, threads = torch.distributed.is_initialized(), torch.get_num_threads()
    world, has_failed = join_world(), True
    torch.set_num_threads(thread_plan(world.placement.local_size))
    try:
        yield world
        has_failed = False
    finally:
        torch.set_num_threads(threads)
        # Leaving waits for the other ranks, and a failed rank must report its error at once.
        if not was_there and (world.size == 1 or not has_failed):
            leave_world()
