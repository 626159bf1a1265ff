"""Which settings of a run with several networks may change on resume, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from trichord.core.errors import UserError
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine.checkpoint_files import CheckpointIndex
from trichord.pretrain.engine.saving import refuse_other_run
from trichord.pretrain.recipe import load_recipe


def configure(*overrides: str) -> RunConfig:
    return load_recipe("av_synthetic", ("data.sources=somewhere", *overrides)).config


def go_on(*overrides: str) -> None:
    """Resume a checkpoint of the recipe with other settings."""
    index = CheckpointIndex(
        step=30,
        adam_updates=30,
        world_size=1,
        versions={},
        data_digests=["a"],
        config=configure().model_dump(mode="json"),
        files={},
    )
    refuse_other_run(configure(*overrides), ["a"], (Path("step_00000030"), index))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backbone.heads=8", "backbone.heads: the checkpoint has 4, now 8"),
        # Its tensors have the same shapes, so that nothing else would detect it.
        ("audio_backbone.heads=8", "audio_backbone.heads: the checkpoint has 4, now 8"),
        ("objective.target.clusters=[32,64,99]", r"objective.target.clusters: the checkpoint has \[32, 64, 128\], now"),
    ],
)
def test_another_network_of_any_modality_is_refused(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        go_on(override)


def test_settings_of_augmentation_and_cost_may_change() -> None:
    go_on("audio_backbone.activation_checkpointing=true", "backbone.drop_path=0.1", "audio_backbone.drop_path=0.1")
    go_on("objective.target.temperature=0.3", "objective.target.rounds.samples=6400", "objective.temperature=0.2")
