"""Fine-tuning as a cluster job: the pretraining job with the additional checks of a task."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from trichord.finetune.config import FinetuneConfig
from trichord.finetune.recipe import load_finetune_recipe
from trichord.pretrain.job import PretrainJob, refuse_dry_run, run_folder


@dataclass(frozen=True, kw_only=True)
class FinetuneJob(PretrainJob):
    """A fine-tuning recipe, resolved at submission."""

    config: FinetuneConfig
    verb: ClassVar[str] = "finetune"

    def check(self, ranks: int) -> Sequence[str]:
        return [*super().check(ranks), self.config.objective.check(self.config)]


def finetune_job(arguments: Namespace) -> FinetuneJob:
    """Build the job from the command line arguments."""
    refuse_dry_run(arguments)
    config = load_finetune_recipe(arguments.recipe, arguments.overrides).config
    return FinetuneJob(name=Path(arguments.recipe).stem, folder=run_folder(arguments), config=config)
