"""The DeepSpeed JSON: DeepSpeed accepts it, and derived keys cannot be set by hand."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import ValidationError

from trichord.core.errors import UserError
from trichord.pretrain.engine.config import EngineConfig, deepspeed_config


def test_batch_sizes_are_consistent() -> None:
    derived = deepspeed_config(EngineConfig(accumulation=4, zero_stage=2, clip_gradient_norm=3.0), 96, world_size=8)
    assert derived == {
        "train_batch_size": 96,
        "train_micro_batch_size_per_gpu": 3,
        "gradient_accumulation_steps": 4,
        "gradient_clipping": 3.0,
        "zero_optimization": {
            "stage": 2,
            "reduce_bucket_size": 50_000_000,
            "allgather_bucket_size": 50_000_000,
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_deepspeed_reads_the_intended_values(stage: Any) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    engine = EngineConfig(accumulation=2, zero_stage=stage, precision="bf16")
    theirs = DeepSpeedConfig(deepspeed_config(engine, 6, world_size=1))
    assert (theirs.train_batch_size, theirs.train_micro_batch_size_per_gpu) == (6, 3)
    assert theirs.gradient_accumulation_steps == 2
    assert theirs.zero_optimization_stage == stage
    assert theirs.gradient_clipping == 0.0
    assert theirs.steps_per_print is None  # it prints nothing between our lines
    assert not theirs.bfloat16_config.enabled and not theirs.float16_config.enabled


def test_additional_keys_are_merged_at_any_depth() -> None:
    further = {"zero_optimization": {"overlap_comm": True, "reduce_bucket_size": 7}, "wall_clock_breakdown": True}
    derived = deepspeed_config(EngineConfig(zero_stage=1, deepspeed=further), 8, world_size=2)
    assert derived["zero_optimization"]["overlap_comm"] is True
    assert derived["zero_optimization"]["reduce_bucket_size"] == 7 and derived["zero_optimization"]["stage"] == 1
    assert derived["wall_clock_breakdown"] is True


@pytest.mark.parametrize(
    ("further", "message"),
    [
        ({"train_micro_batch_size_per_gpu": 4}, "engine.deepspeed.train_micro_batch_size_per_gpu cannot be set: it"),
        ({"zero_optimization": {"stage": 3}}, "engine.deepspeed.zero_optimization.stage cannot be set: set engine.z"),
        ({"zero_optimization": None}, "engine.deepspeed.zero_optimization is None, expected keys and values"),
        ({"bf16": {"enabled": True}}, "engine.deepspeed.bf16 cannot be set: set engine.precision"),
        ({"optimizer": {"type": "Adam"}}, "engine.deepspeed.optimizer cannot be set: the engine creates the optimiser"),
    ],
)
def test_derived_keys_are_refused_with_the_reason(further: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        deepspeed_config(EngineConfig(deepspeed=further), 8, world_size=2)


@pytest.mark.parametrize(
    ("batch_size", "world_size", "accumulation", "nearest"),
    [
        (30, 4, 2, "Nearest: data.batch_size 24 or 32"),
        (32, 4, 3, "Nearest: data.batch_size 24 or 36, or engine.accumulation 2 or 4"),
        (3, 4, 1, "Nearest: data.batch_size 4"),
    ],
)
def test_indivisible_batch_suggests_a_divisible_one(
    batch_size: int, world_size: int, accumulation: int, nearest: str
) -> None:
    with pytest.raises(UserError, match=re.escape(nearest) + "$"):
        deepspeed_config(EngineConfig(accumulation=accumulation), batch_size, world_size)


def test_compiling_under_stage_3_is_refused_before_the_first_step() -> None:
    with pytest.raises(ValidationError, match="compile=true requires zero_stage 0 to 2"):
        EngineConfig(compile=True, zero_stage=3)
    assert EngineConfig(compile=True, zero_stage=2).compile
