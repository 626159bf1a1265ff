"""Fine-tuning, evaluation and embedding as cluster jobs.

Fine-tuning is the pretraining job with the additional checks of a task. In an evaluation all ranks score and rank 0
writes; a requeued one starts again. Embedding is divided into parts, each of which embeds its share of the shards.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from trichord.core.command import Job
from trichord.core.console import counted
from trichord.core.errors import UserError
from trichord.core.run_folder import RunFolder
from trichord.finetune.config import FinetuneConfig
from trichord.finetune.evaluation.report import label_of
from trichord.finetune.recipe import load_finetune_recipe, load_tested
from trichord.pretrain.engine.allocator import apply
from trichord.pretrain.job import PretrainJob, refuse_dry_run, run_folder, run_training
from trichord.shards.reading.manifest import Manifest

# A folder in that of evaluations, or of vectors; each job of a sweep of evaluations has its own folder below it.
_JOBS = "jobs"


@dataclass(frozen=True, kw_only=True)
class FinetuneJob(PretrainJob):
    """A fine-tuning recipe, resolved at submission."""

    config: FinetuneConfig
    verb: ClassVar[str] = "finetune"

    def check(self, ranks: int) -> Sequence[str]:
        return [*super().check(ranks), self.config.objective.check(self.config)]


def run_finetune(arguments: Namespace) -> int:
    """Train the recipe of parsed arguments, after storing the features that it reads; or estimate it in a dry run."""
    config = load_finetune_recipe(arguments.recipe, arguments.overrides).config
    config.objective.check(config)
    if config.features is not None and not arguments.dry_run:
        apply()  # before torch is imported
        from trichord.finetune.features.computing import fill_alone

        fill_alone(config)
    return run_training(config, arguments)


def finetune_job(arguments: Namespace) -> FinetuneJob:
    """Build the job from the command line arguments."""
    refuse_dry_run(arguments)
    config = load_finetune_recipe(arguments.recipe, arguments.overrides).config
    return FinetuneJob(name=Path(arguments.recipe).stem, folder=run_folder(arguments), config=config)


@dataclass(frozen=True, kw_only=True)
class EvaluateJob(Job):
    """One `evaluate` command with its arguments."""

    run: Path
    config: FinetuneConfig
    settings: Namespace

    def words(self, snapshot: Path, part: tuple[int, int] | None) -> Sequence[str]:
        given = self.settings
        name = given.name
        if self.folder.name != _JOBS:  # otherwise each job of a sweep would overwrite the one before
            name = f"{name or label_of(self.config.data.sources)}-{self.folder.name}"
        named = ("--name", name) if name else ()
        data = ("--data", *given.data) if given.data else ()
        settings = ("--pictures", given.pictures, "--batch-size", str(given.batch_size))
        return ("evaluate", str(self.run), *given.overrides, *named, *settings, *data)

    def files(self, ranks: int) -> Mapping[str, str]:
        return {}  # the run's own config is not changed

    def check(self, ranks: int) -> Sequence[str]:
        data = self.config.data
        return [
            f"shards: {source.root} holds {counted(sum(opened.counts), 'clip')}"
            for source, opened in zip(data.sources, data.open_sources(), strict=True)
        ]

    def weigh(self, ranks: int, device: str | None) -> Sequence[str]:
        from trichord.pretrain.weights.export import newest_checkpoint

        path, index = newest_checkpoint(self.run)
        return [f"checkpoint: {path}, of step {index.step}"]


def evaluate_job(arguments: Namespace) -> EvaluateJob:
    """Build the job from the command line arguments."""
    run = arguments.run_folder
    config = load_tested(run, arguments.data, arguments.overrides, arguments.batch_size)
    return EvaluateJob(
        name=f"evaluate-{run.absolute().name}",
        folder=RunFolder(run).evaluations / _JOBS,
        run=run,
        config=config,
        settings=arguments,
    )


@dataclass(frozen=True, kw_only=True)
class EmbedJob(Job):
    """One `trichord embed` command with its arguments."""

    typed: tuple[str, ...]
    settings: Namespace

    def words(self, snapshot: Path, part: tuple[int, int] | None) -> Sequence[str]:
        return self.typed if part is None else (*self.typed, "--part", f"{part[0]}/{part[1]}")

    def files(self, ranks: int) -> Mapping[str, str]:
        return {}  # the command line contains all settings

    def check(self, ranks: int) -> Sequence[str]:
        given = self.settings
        if not RunFolder(given.run_folder).is_run and not given.run_folder.is_file():
            raise UserError(f"{given.run_folder} is neither a run folder nor a file of weights")
        out = given.out
        existing = next(path for path in (out, *out.absolute().parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(f"{out} cannot be written: {existing} is not a writable folder. Next: another --out")
        manifest = Manifest.load(given.shards)
        clips, shards = counted(manifest.samples, "clip"), counted(len(manifest.shards), "shard")
        return [f"embed: {clips} in {shards}, one part for each shard"]


def embed_job(arguments: Namespace) -> EmbedJob:
    """Build the job from the command line arguments; with --part, it runs that part and is not divided again."""
    return EmbedJob(
        name=f"embed-{arguments.out.name}",
        folder=arguments.out / _JOBS,
        is_of_parts=arguments.part is None,
        typed=tuple(arguments.words),
        settings=arguments,
    )
