"""Evaluates a classification on shards: every clip exactly once, whatever the number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trichord.finetune.config import FinetuneConfig
from trichord.finetune.tasks.classification.measuring import measure
from trichord.finetune.tasks.classification.model import Classification
from trichord.finetune.tasks.classification.scoring import score
from trichord.pretrain.engine.distributed import World

Draw = Callable[..., list[Path]]


def evaluate(
    config: FinetuneConfig, objective: Classification, world: World, draw: Draw | None = None
) -> dict[str, Any]:
    """Tell the classes of every clip once, and on the first rank how right they are, drawn if there is a way to."""
    tested = score(config, objective, world)
    found = {
        "clips": len(tested.scores_NK),
        "bad": tested.bad,
        **({"silent": tested.silent} if "audio" in objective.spec.inputs else {}),
        "views": objective.spec.views_words,
    }
    if world.rank == 0:
        measured = measure(objective.spec, tested, config.seed)
        found |= asdict(measured)
        if draw is not None:
            found["pictures"] = [path.name for path in draw(objective.spec, tested, measured.classes)]
    return found
