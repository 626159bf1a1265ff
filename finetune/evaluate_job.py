"""Evaluation as a cluster job: all ranks score, rank 0 writes; a requeued job starts from the beginning."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trichord.core.job import Job
from trichord.core.run_folder import RunFolder
from trichord.finetune.config import FinetuneConfig
from trichord.finetune.evaluation_report import label_of
from trichord.finetune.recipe import load_tested

_JOBS = "jobs"  # in the folder of evaluations; each job of a sweep has its own folder below it


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
            f"shards: {source.root} holds {sum(opened.counts):,} clips"
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
