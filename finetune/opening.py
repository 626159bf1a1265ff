"""Loading of runs of any task for use after training: their settings, and their objective in evaluation mode."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from trichord.core.errors import UserError
from trichord.core.run_folder import RunFolder
from trichord.finetune.config import FinetuneConfig, read_config
from trichord.finetune.recipe import read_run
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine import checkpoint
from trichord.pretrain.engine.training import build
from trichord.pretrain.objectives.base import Objective
from trichord.pretrain.weights.export import newest_checkpoint


@dataclass(frozen=True)
class OpenedRun:
    """A run with the weights of its newest complete checkpoint."""

    run: Path
    config: RunConfig
    objective: Objective
    step: int


def open_run(run: Path, device: torch.device) -> OpenedRun:
    """Load a run; its shards need not exist."""
    if not RunFolder(run).is_run:
        raise UserError(f"{run} is not a run folder: it has no checkpoints/. Next: trichord status, which lists runs")
    config = read_config(read_run(run))
    if isinstance(config, FinetuneConfig):
        config = config.model_copy(update={"features": None})  # applied to videos, even if trained on features
    objective, step = load_objective(config, run, device)
    return OpenedRun(run, config, objective, step)


def load_objective(config: RunConfig, run: Path, device: torch.device) -> tuple[Objective, int]:
    """Build a config's objective with the weights of a run's newest complete checkpoint; return it and the step."""
    path, index = newest_checkpoint(run)
    objective = build(config)
    checkpoint.load_weights(path, index, objective)
    objective.cast_to = torch.bfloat16 if config.engine.precision == "bf16" else None
    return objective.eval().to(device), index.step
