"""The settings of the training engine: optimiser, parameter groups, DeepSpeed, checkpoints, log, initial weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from trichord.pretrain.engine.schedules import Constant, Schedule


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GroupRules(_Config):
    """Rules for weight decay, layer-wise learning-rate decay and learning-rate scales."""

    no_decay_one_dimensional: bool = True  # parameters of at most one dimension, and those named bias
    no_decay_names: tuple[str, ...] = ()  # patterns of names such as *.cls_token
    layer_decay: float | None = Field(default=None, gt=0, le=1)  # learning rate times layer_decay^(layers - 1 - layer)
    # Name patterns and the factors of their learning rates, such as {"*.message_*": 10}. Of several patterns that match
    # a name the last counts; a pattern without a match is ignored, because parts of a network may be switched off.
    lr_scales: dict[str, PositiveFloat] = Field(default_factory=dict)


class OptimiserConfig(_Config):
    """AdamW (Loshchilov and Hutter 2019) and its schedules."""

    learning_rate: Schedule
    lr_reference_batch: PositiveInt | None = None  # the learning rate is for this batch_size and scales linearly
    weight_decay: Schedule = Constant(value=0.05)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    rules: GroupRules = GroupRules()

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
    dropout), norms over the batch, or a contrastive loss of video and audio that treats each part as the batch.
    """

    zero_stage: Literal[0, 1, 2, 3] = 0  # partitioned over ranks: 1 optimiser state, 2 also gradients, 3 also weights
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast over fp32 weights
    accumulation: PositiveInt = 1  # number of parts in which a rank processes its share of a batch
    clip_gradient_norm: PositiveFloat | None = None  # norm over all parameters
    compile: bool = False  # torch.compile
    deepspeed: dict[str, Any] = Field(default_factory=dict)  # further keys of DeepSpeed's JSON

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
    every_s: PositiveFloat | None = 1800.0
    keep_last: PositiveInt = 3
    keep_every_steps: PositiveInt | None = None  # checkpoints at multiples of this are never removed

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
    tensorboard: bool = False
    wandb_project: str | None = None


class InitFrom(_Config):
    """Weights to start from. A run folder with checkpoints resumes from them and ignores this setting."""

    path: Path
    part: str | None = None  # the part to load from a file with several, such as student or teacher
    allow_missing: tuple[str, ...] = ()  # patterns of names that may be missing in the file
    allow_unused: tuple[str, ...] = ()  # patterns of names in the file that may stay unused
    time_from_space: bool = False  # from an image model: initialise temporal attention from spatial
