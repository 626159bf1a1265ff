"""The settings of the training engine, and DeepSpeed's JSON, which is derived from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from trichord.core.errors import UserError
from trichord.pretrain.engine.schedules import Constant, Schedule
from trichord.shards.reading.order import nearest_divisors


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GroupRules(_Config):
    """Rules for weight decay, layer-wise learning-rate decay and learning-rate scales."""

    no_decay_one_dimensional: bool = True
    """Exempt biases and parameters of at most one dimension, such as those of norms, from weight decay."""
    no_decay_names: tuple[str, ...] = ()
    """Patterns of further parameter names that are exempt from weight decay, such as `*.cls_token`."""
    layer_decay: float | None = Field(default=None, gt=0, le=1)
    """Factor by which the learning rate falls from each layer of a backbone to the one below it; null gives all layers
    the same rate."""
    # A pattern without a match is no error here, because parts of a network may be switched off.
    lr_scales: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Factors of the learning rate by pattern of parameter names, such as `{"*.message_*": 10}`; of several patterns
    that match a name the last counts, and one that matches none is ignored."""


class OptimiserConfig(_Config):
    """AdamW (Loshchilov and Hutter 2019) and its schedules."""

    learning_rate: Schedule
    """Learning rate of AdamW at each step, as a number or a schedule."""
    lr_reference_batch: PositiveInt | None = None
    """Batch size for which `learning_rate` is stated: the rate is multiplied by `data.batch_size` over this number;
    null uses the rate as it is."""
    weight_decay: Schedule = Constant(value=0.05)
    """Weight decay of AdamW at each step, as a number or a schedule."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of AdamW's running means of the gradient and of its square, each at least 0 and below 1."""
    eps: PositiveFloat = 1e-8
    """Small number added to the denominator of AdamW's update, for numerical stability."""
    rules: GroupRules = GroupRules()
    """Parameters with another learning rate, or without weight decay."""

    def learning_rate_at(self, step: int, steps: int, batch_size: int) -> float:
        """Return the learning rate of a step; the linear scaling rule scales the whole curve, including its end."""
        return self.learning_rate.at(step, steps) * (batch_size / (self.lr_reference_batch or batch_size))

    @model_validator(mode="after")
    def _betas_are_shares(self) -> OptimiserConfig:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be at least 0 and below 1, found {list(self.betas)}")
        return self


class EngineConfig(_Config):
    """How a step is computed.

    `zero_stage` changes results only by rounding. So does `accumulation`, except with random layers (drop path,
    dropout), norms over the batch, or a contrastive loss of video and audio within each micro-batch.
    """

    zero_stage: Literal[0, 1, 2, 3] = 0
    """Partitioning over ranks by DeepSpeed's ZeRO, which saves memory: 0 none, 1 the optimiser's state, 2 also
    gradients, 3 also weights."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16` computes in bfloat16 by autocast over weights in float32, `fp32` in float32 throughout."""
    accumulation: PositiveInt = 1
    """Number of micro-batches in which a rank processes its share of a batch, one after another; raise it if a batch
    does not fit in memory."""
    clip_gradient_norm: PositiveFloat | None = None
    """Largest norm of the gradient of all parameters together, to which a longer gradient is scaled down; null does not
    clip."""
    compile: bool = False
    """Compile the networks with torch.compile, which needs a `zero_stage` of 0 to 2."""
    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """Further keys of DeepSpeed's JSON configuration; those that follow from other settings are refused."""

    @model_validator(mode="after")
    def _can_be_compiled(self) -> EngineConfig:
        if self.compile and self.zero_stage == 3:
            raise ValueError(
                "compile=true requires zero_stage 0 to 2: stage 3 gathers weights in hooks that torch.compile does "
                "not see. Set zero_stage=2, or compile=false"
            )
        return self


class CheckpointConfig(_Config):
    """When a checkpoint is saved, and which are kept; one is always saved at the end."""

    every_steps: PositiveInt | None = None
    """Number of steps between checkpoints; null saves by time only."""
    every_s: PositiveFloat | None = 1800.0
    """Seconds between checkpoints; null saves by steps only."""
    keep_last: PositiveInt = 3
    """Number of the newest checkpoints that are kept."""
    keep_every_steps: PositiveInt | None = None
    """Also keep every checkpoint at a multiple of this number of steps, itself a multiple of `every_steps`; null keeps
    only the newest."""

    @model_validator(mode="after")
    def _has_cadence(self) -> CheckpointConfig:
        if self.every_steps is None and self.every_s is None:
            raise ValueError("every_steps and every_s are both null: no checkpoint would be saved before the end")
        if self.keep_every_steps is not None and self.every_steps is None:
            raise ValueError("keep_every_steps requires every_steps: saves by time hit its multiples only by chance")
        if self.keep_every_steps is not None and self.keep_every_steps % (self.every_steps or 1):
            raise ValueError(
                f"keep_every_steps={self.keep_every_steps} is not a multiple of every_steps={self.every_steps}"
            )
        return self


class LogConfig(_Config):
    """What is logged during a run; metrics.jsonl is always written."""

    every_steps: PositiveInt = 10
    """Number of steps between lines of metrics in `metrics.jsonl` and on the console."""
    tensorboard: bool = False
    """Also write the metrics for TensorBoard into the run folder, which needs the extra `tracking`."""
    wandb_project: str | None = None
    """Project of Weights & Biases to which the metrics are sent as well, which needs the extra `tracking`; null sends
    nothing."""


class InitFrom(_Config):
    """Weights to start from. A run folder with checkpoints resumes from them and ignores this setting."""

    path: Path
    """File of weights (.safetensors, .pth, .pyth, .pt or .bin), folder saved by Hugging Face, or, for fine-tuning, a
    run folder."""
    part: str | None = None
    """Part to load from a file or run with several, such as `student`; null takes the network of this modality, or the
    teacher."""
    allow_missing: tuple[str, ...] = ()
    """Patterns of tensor names that may be missing in the file and then keep their initial values."""
    allow_unused: tuple[str, ...] = ()
    """Patterns of tensor names in the file that the network may leave unused."""
    time_from_space: bool = False
    """Start temporal attention with a copy of the spatial attention, for weights of an image model, which have none."""


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
