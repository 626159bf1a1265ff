"""DeepSpeed's JSON configuration, derived from the engine's settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trichord.core.errors import UserError
from trichord.pretrain.engine.config import EngineConfig
from trichord.shards.reading.order import nearest_divisors

_BATCH = "it follows from data.batch_size, engine.accumulation and the number of ranks"
_PRECISION = "set engine.precision; bf16 is autocast over fp32 weights and does not involve DeepSpeed"
_OPTIMISER = "the engine creates the optimiser and its schedules: set optimiser"
# DeepSpeed's default bucket, ten times this, takes more memory than partitioning a ViT-B over ranks saves.
_BUCKETS = {"reduce_bucket_size": 50_000_000, "allgather_bucket_size": 50_000_000}
# DeepSpeed would keep full copies of small parameters beside their slices, and miss EMA updates of the slices.
_STAGE_3 = {"stage3_param_persistence_threshold": 0}
_DERIVED = {
    "train_batch_size": _BATCH,
    "train_micro_batch_size_per_gpu": _BATCH,
    "gradient_accumulation_steps": "set engine.accumulation",
    "gradient_clipping": "set engine.clip_gradient_norm",
    "zero_optimization.stage": "set engine.zero_stage",
    "zero_optimization.stage3_param_persistence_threshold": "it must be 0, or slices and full parameters differ",
    "zero_allow_untested_optimizer": "it must be true, because the optimiser is torch's own",
    "zero_force_ds_cpu_optimizer": "it must be false, because the optimiser is torch's own",
    "optimizer": _OPTIMISER,
    "scheduler": _OPTIMISER,
    "fp16": _PRECISION,
    "bf16": _PRECISION,
    "amp": _PRECISION,
    "torch_autocast": _PRECISION,
    "activation_checkpointing": "the backbone does it: set activation_checkpointing in backbone",
}


def deepspeed_config(engine: EngineConfig, batch_size: int, world_size: int) -> dict[str, Any]:
    """Return DeepSpeed's JSON for `world_size` ranks; `batch_size` is the global one."""
    stage = engine.zero_stage
    config = {
        "train_batch_size": batch_size,
        "train_micro_batch_size_per_gpu": micro_batch_size(engine, batch_size, world_size),
        "gradient_accumulation_steps": engine.accumulation,
        "gradient_clipping": engine.clip_gradient_norm or 0.0,
        "zero_optimization": {
            "stage": stage,
            **(_BUCKETS if stage else {}),
            **(_STAGE_3 if stage == 3 else {}),
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's own would be compiled at the first start
    }
    _refuse_derived(engine.deepspeed)
    return _merged(config, engine.deepspeed)


def micro_batch_size(engine: EngineConfig, batch_size: int, world_size: int) -> int:
    """Return the number of samples that a rank processes at once."""
    parts = world_size * engine.accumulation
    if batch_size % parts == 0:
        return batch_size // parts
    below, above = batch_size // parts * parts, (batch_size // parts + 1) * parts
    choices = [f"data.batch_size {f'{below} or ' if below else ''}{above}"]
    if batch_size % world_size == 0:
        choices.append(f"engine.accumulation {nearest_divisors(batch_size // world_size, engine.accumulation)}")
    raise UserError(
        f"data.batch_size={batch_size} cannot be divided over {world_size} rank{'s' if world_size != 1 else ''} with "
        f"engine.accumulation={engine.accumulation}: expected a multiple of {parts}. Nearest: {', or '.join(choices)}"
    )


def _refuse_derived(extra: Mapping[str, Any], above: str = "") -> None:
    for key, value in extra.items():
        name = f"{above}{key}"
        if name in _DERIVED:
            raise UserError(f"engine.deepspeed.{name} cannot be set: {_DERIVED[name]}")
        if isinstance(value, Mapping):
            _refuse_derived(value, f"{name}.")


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(first)
    for key, value in second.items():
        if isinstance(merged.get(key), Mapping):
            if not isinstance(value, Mapping):
                raise UserError(f"engine.deepspeed.{key} is {value!r}, expected keys and values such as {{a: b}}")
            value = _merged(merged[key], value)
        merged[key] = value
    return merged
