"""Evaluation of a run's head on shards: every clip exactly once on any number of ranks; figures in files."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trichord.core.console import show_figures
from trichord.core.registry import load
from trichord.core.run_folder import RunFolder
from trichord.finetune.config import FinetuneConfig
from trichord.finetune.evaluation.report import label_of, write_report
from trichord.finetune.loading import load_objective
from trichord.finetune.recipe import load_tested
from trichord.pretrain.collectives import rank
from trichord.pretrain.engine.allocator import thread_plan
from trichord.pretrain.engine.distributed import join_world, leave_world


def evaluate(
    run: Path,
    data: Sequence[str],
    overrides: Sequence[str],
    name: str | None,
    pictures: str | None = None,
    batch_size: int = 8,
) -> dict[str, Any]:
    """Test a run's newest complete checkpoint, write the results into its folder and return them (figures on rank 0).

    `pictures` is the file extension of drawn figures, such as png. Batches are the same on any number of ranks.
    """
    config = load_tested(run, data, overrides, batch_size)
    world = join_world()
    torch.set_num_threads(thread_plan(world.placement.local_size))
    objective, step = load_objective(config, run, world.device)
    stem = RunFolder(run).evaluations / f"{name or label_of(config.data.sources)}_step_{step:08d}"
    draws = config.objective.draws
    draw = partial(_draw, draws, stem, pictures) if draws and pictures else None
    found = {
        "run": str(run),
        "step": step,
        "data": [source.root for source in config.data.sources],
        "data_digests": [source.manifest.digest() for source in config.data.open_sources()],
        "model": describe_model(config),
        **load(config.objective.evaluates)(config, objective, world, draw),
    }
    captions = found.pop("captions", None)
    if world.rank == 0:
        files = [*write_report(run, stem.name, found, captions), *map(stem.with_name, found.get("pictures", []))]
        found["files"] = list(map(str, files))
    return found


def run_evaluate(arguments: Namespace) -> int:
    """Evaluate a run from parsed arguments and print its figures on rank 0."""
    pictures = None if arguments.pictures == "none" else arguments.pictures
    found = evaluate(
        arguments.run_folder, arguments.data, arguments.overrides, arguments.name, pictures, arguments.batch_size
    )
    if rank() == 0:
        counts = {name: found[name] for name in ("run", "step", "clips", "bad", "silent", "views") if name in found}
        row = {**counts, **found["model"], **found["metrics"], "written": found["files"][0]}
        show_figures("evaluated", [row], arguments.json)
    leave_world()
    return 0


def _draw(draws: str, stem: Path, ending: str, *of: Any) -> list[Path]:
    """Draw the figures of a test; matplotlib is imported only here."""
    written: list[Path] = load(draws)(stem, ending, *of)
    return written


def describe_model(config: FinetuneConfig) -> dict[str, object]:
    """Return what was tested: the columns by which tables compare runs."""
    spec = config.objective
    kinds = [each.kind for each in (config.backbone, config.audio_backbone) if each is not None]
    starts = [init for init in (config.init_from, config.audio_init_from) if init is not None]
    return {
        "inputs": " + ".join(spec.inputs),
        "backbone": " + ".join(kinds),
        "pretrained": config.pretrained or (", ".join(init.path.name for init in starts) or "no"),
        "head": spec.head_words,
        "trained": spec.trained_words,
        "seed": config.seed,
    }
