"""Trains a bench's runs with the engine, and takes no run's weights for those that other settings would have given."""

from __future__ import annotations

import time
from pathlib import Path

from pydantic import ValidationError

from trichord.core.errors import UserError
from trichord.core.run_folder import RunFolder
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine import checkpoint_files
from trichord.pretrain.engine.saving import changes


def train(config: RunConfig, run: Path) -> float:
    """Pretrain and give the seconds that took; a run that was broken off goes on if nothing was set otherwise since."""
    _refuse_other_settings(config, run)
    from trichord.pretrain.engine.run import pretrain  # DeepSpeed takes seconds to import

    start_s = time.monotonic()
    pretrain(config, run)
    return time.monotonic() - start_s


def _refuse_other_settings(config: RunConfig, run: Path) -> None:
    """Stop before a run goes on that is another: the engine lets many settings change on the way, which is no test."""
    for checkpoint in checkpoint_files.checkpoints_in(RunFolder(run).checkpoints):
        try:
            index = checkpoint_files.read_index(checkpoint)
        except checkpoint_files.TornCheckpoint:
            continue  # the engine passes it over as well, and says so
        try:
            before = type(config).model_validate(index.config)  # settings that came to be since have their defaults
        except ValidationError as error:
            found = [f"it is of another version: {error.errors()[0]['msg']}"]
        else:
            found = changes(config, index.model_copy(update={"config": before.model_dump(mode="json")}))
        if found:
            listed = "\n  ".join(found)
            raise UserError(
                f"{run} holds a run with other settings:\n  {listed}\nGive another --out, or delete that folder to "
                "train it anew."
            )
        return
