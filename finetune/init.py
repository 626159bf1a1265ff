"""Initial state of a head: backbones with the weights of a pretraining run or of a file, and class frequencies.

Legend: K classes.
"""

from __future__ import annotations

import sys

from trichord.core.registry import load
from trichord.core.run_folder import RunFolder
from trichord.finetune.config import FinetuneConfig, read_config
from trichord.finetune.recipe import read_run
from trichord.finetune.tasks.base import TaskBackbone
from trichord.finetune.tasks.spec import Modality
from trichord.pretrain.collectives import rank
from trichord.pretrain.engine.config import InitFrom
from trichord.pretrain.objectives.base import Objective
from trichord.pretrain.weights.export import read_part
from trichord.pretrain.weights.load import Fit, load_published, load_tensors
from trichord.pretrain.weights.naming import Family

_OWN = Family("a run's own", "backbone.*", ())  # it uses trichord's own names


def begin(config: FinetuneConfig, objective: Objective) -> None:
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
