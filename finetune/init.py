"""What a head starts from: backbones with the weights of a pretraining run or of a file, and how frequent classes are.

Legend: K classes.
"""

from __future__ import annotations

import sys

from trichord.core.registry import load
from trichord.core.run_folder import RunFolder
from trichord.finetune.config import FinetuneConfig, read_config
from trichord.finetune.recipe import read_run
from trichord.finetune.tasks.base import Trunk
from trichord.finetune.tasks.spec import Modality
from trichord.pretrain.collectives import rank
from trichord.pretrain.engine.config import InitFrom
from trichord.pretrain.objectives.base import Objective
from trichord.pretrain.weights.export import read_part
from trichord.pretrain.weights.load import Fit, load_published, load_tensors
from trichord.pretrain.weights.naming import Family

_OWN = Family("a run's own", "backbone.*", ())  # its names are ours


def begin(config: FinetuneConfig, objective: Objective) -> None:
    """Load what the recipe names; all ranks do so, before the optimiser is made."""
    senses: tuple[tuple[Modality, InitFrom | None], ...] = (
        ("video", config.init_from),
        ("audio", config.audio_init_from),
    )
    for sense, init in senses:
        trunk = getattr(objective, sense, None)
        if isinstance(trunk, Trunk) and init is not None:
            lines = load_weights(init, trunk, sense).lines()
            if rank() == 0:
                print(f"{sense}: {'; '.join(lines)}", file=sys.stderr)
    load(config.objective.prepares)(config, objective)


def load_weights(init: InitFrom, trunk: Trunk, sense: Modality) -> Fit:
    """Give a backbone the weights of a file, or of a run's part.

    Of the parts it is the one that is named, else the one that is called like the sense, else the run's best.
    """
    if not RunFolder(init.path).is_run:
        return load_published(init, trunk.backbone)
    parts = read_config(read_run(init.path)).objective.parts
    tensors, _, _ = read_part(init.path, init.part or (sense if sense in parts else None), read_config)
    own = {name: tensor for name, tensor in tensors.items() if name.startswith("backbone.")}
    return load_tensors(own, init, trunk.backbone, family=_OWN)
