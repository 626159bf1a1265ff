"""Which settings of a run of several networks may change when it is taken up again, and which would make it another."""

from __future__ import annotations

from pathlib import Path

import pytest

from trichord.core.errors import UserError
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine.checkpoint_files import CheckpointIndex
from trichord.pretrain.engine.saving import refuse_other_run
from trichord.pretrain.recipe import load_recipe


def configure(*overrides: str) -> RunConfig:
    return load_recipe("av_world", ("data.sources=somewhere", *overrides)).config


def go_on(*overrides: str) -> None:
    """Let a run with other settings go on with a checkpoint of the recipe's."""
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
    ("override", "told"),
    [
        ("backbone.heads=8", "backbone.heads: the checkpoint has 4, now 8"),
        # Its tensors are of the same shapes, so that nothing else would tell.
        ("audio_backbone.heads=8", "audio_backbone.heads: the checkpoint has 4, now 8"),
        ("objective.target.clusters=[32,64,99]", r"objective.target.clusters: the checkpoint has \[32, 64, 128\], now"),
    ],
)
def test_another_network_is_refused_whichever_sense_it_is_of(override: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        go_on(override)


def test_what_draws_or_costs_otherwise_may_change() -> None:
    go_on("audio_backbone.activation_checkpointing=true", "backbone.drop_path=0.1", "audio_backbone.drop_path=0.1")
    go_on("objective.target.temperature=0.3", "objective.target.rounds.samples=6400", "objective.temperature=0.2")
