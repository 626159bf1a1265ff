"""Loading of weights: of finished runs of any kind for use, and of pretrained backbones as a task's initial weights."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from trichord.core.errors import UserError
from trichord.core.registry import load
from trichord.core.run_folder import RunFolder
from trichord.finetune.config import FinetuneConfig, read_config
from trichord.finetune.recipe import read_run
from trichord.finetune.tasks.base import TaskBackbone
from trichord.pretrain.collectives import rank
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine import checkpoint
from trichord.pretrain.engine.config import InitFrom
from trichord.pretrain.engine.training import build
from trichord.pretrain.objectives.base import Objective
from trichord.pretrain.weights.export import newest_checkpoint, read_part
from trichord.pretrain.weights.load import Fit, load_published, load_tensors
from trichord.pretrain.weights.naming import Family
from trichord.shards.sample_spec import Modality


@dataclass(frozen=True)
class TrainedRun:
    """A run with the weights of its newest complete checkpoint."""

    run: Path
    config: RunConfig
    objective: Objective
    step: int


def load_run(run: Path, device: torch.device) -> TrainedRun:
    """Load a run; its shards need not exist."""
    if not RunFolder(run).is_run:
        raise UserError(f"{run} is not a run folder: it has no checkpoints/. Next: trichord status, which lists runs")
    config = read_config(read_run(run))
    if isinstance(config, FinetuneConfig):
        config = config.model_copy(update={"features": None})  # applied to videos, even if trained on features
    objective, step = load_objective(config, run, device)
    return TrainedRun(run, config, objective, step)


def load_objective(config: RunConfig, run: Path, device: torch.device) -> tuple[Objective, int]:
    """Build a config's objective with the weights of a run's newest complete checkpoint; return it and the step."""
    path, index = newest_checkpoint(run)
    objective = build(config)
    checkpoint.load_weights(path, index, objective)
    objective.cast_to = torch.bfloat16 if config.engine.precision == "bf16" else None
    return objective.eval().to(device), index.step


_OWN = Family("a run's own", "backbone.*", ())  # it uses trichord's own names


def load_initial_weights(config: FinetuneConfig, objective: Objective) -> None:
    """Load the weights that the recipe names; all ranks do so, before the optimiser is built."""
    inits: tuple[tuple[Modality, InitFrom | None], ...] = (
        ("video", config.init_from),
        ("audio", config.audio_init_from),
    )
    for modality, init in inits:
        encoder = getattr(objective, modality, None)
        if isinstance(encoder, TaskBackbone) and init is not None:
            lines = load_weights(init, encoder, modality).lines()
            if rank() == 0:
                print(f"{modality}: {'; '.join(lines)}", file=sys.stderr)
    if config.objective.prepares is not None:
        load(config.objective.prepares)(config, objective)


def load_weights(init: InitFrom, encoder: TaskBackbone, modality: Modality) -> Fit:
    """Load the weights of a file, or of a part of a run, into a backbone.

    The part is the one that `init` names, else the one named after the modality, else the run's best.
    """
    if not RunFolder(init.path).is_run:
        return load_published(init, encoder.backbone)
    parts = read_config(read_run(init.path)).objective.parts
    tensors, _, _ = read_part(init.path, init.part or (modality if modality in parts else None), read_config)
    own = {name: tensor for name, tensor in tensors.items() if name.startswith("backbone.")}
    return load_tensors(own, init, encoder.backbone, family=_OWN)
