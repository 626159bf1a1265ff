"""The settings of the training engine: optimiser, parameter groups, DeepSpeed, checkpoints, log, first weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from trichord.pretrain.engine.schedules import Constant, Schedule


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GroupRules(_Config):
    """Which parameters are decayed, and how the learning rate falls from the last layer to the first."""

    no_decay_one_dimensional: bool = True  # parameters of one dimension or none, and what is called bias
    no_decay_names: tuple[str, ...] = ()  # patterns of names such as *.cls_token
    layer_decay: float | None = Field(default=None, gt=0, le=1)  # learning rate times layer_decay^(layers - 1 - layer)
    # Patterns of names, and what their learning rate is multiplied with, such as {"*.message_*": 10}. Of several that
    # meet a name the last counts; one that meets none is passed over, for parts of a network may be switched off.
    lr_scales: dict[str, PositiveFloat] = Field(default_factory=dict)


class OptimiserConfig(_Config):
    """AdamW (Loshchilov and Hutter 2019) and its schedules."""

    learning_rate: Schedule
    lr_reference_batch: PositiveInt | None = None  # the learning rate is meant for this batch_size and grows with it
    weight_decay: Schedule = Constant(value=0.05)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    rules: GroupRules = GroupRules()

    def learning_rate_at(self, step: int, steps: int, batch_size: int) -> float:
        """Give the learning rate of a step; the linear scaling rule scales the whole curve, its end too."""
        return self.learning_rate.at(step, steps) * (batch_size / (self.lr_reference_batch or batch_size))

    @model_validator(mode="after")
    def _betas_are_shares(self) -> OptimiserConfig:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie from 0 to below 1, found {list(self.betas)}")
        return self


class EngineConfig(_Config):
    """How a step is computed.

    `zero_stage` changes results by rounding alone. So does `accumulation`, unless something is drawn (drop path,
    dropout), a norm looks at the whole batch, or the contrast of video and sound takes a part for the batch.
    """

    zero_stage: Literal[0, 1, 2, 3] = 0  # shared out over ranks: 1 optimiser state, 2 also gradients, 3 also weights
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast over fp32 weights
    accumulation: PositiveInt = 1  # parts in which a rank goes through its share of a batch
    clip_gradient_norm: PositiveFloat | None = None  # of all parameters together
    compile: bool = False  # torch.compile
    deepspeed: dict[str, Any] = Field(default_factory=dict)  # further keys of DeepSpeed's JSON

    @model_validator(mode="after")
    def _can_be_compiled(self) -> EngineConfig:
        if self.compile and self.zero_stage == 3:
            raise ValueError(
                "compile=true goes with zero_stage 0 to 2: stage 3 gathers weights in hooks that torch.compile does "
                "not see. Set zero_stage=2, or compile=false"
            )
        return self


class CheckpointConfig(_Config):
    """When a checkpoint is saved, and which are kept; one is saved at the end whatever stands here."""

    every_steps: PositiveInt | None = None
    every_s: PositiveFloat | None = 1800.0
    keep_last: PositiveInt = 3
    keep_every_steps: PositiveInt | None = None  # checkpoints at multiples of this stay for ever

    @model_validator(mode="after")
    def _has_cadence(self) -> CheckpointConfig:
        if self.every_steps is None and self.every_s is None:
            raise ValueError("every_steps and every_s are both null: nothing would be saved before the end")
        if self.keep_every_steps is not None and self.every_steps is None:
            raise ValueError("keep_every_steps needs every_steps: checkpoints by the clock hit its multiples by luck")
        if self.keep_every_steps is not None and self.keep_every_steps % (self.every_steps or 1):
            raise ValueError(
                f"keep_every_steps={self.keep_every_steps} is no multiple of every_steps={self.every_steps}"
            )
        return self


class LogConfig(_Config):
    """What is told while a run goes on; metrics.jsonl is always written."""

    every_steps: PositiveInt = 10
    tensorboard: bool = False
    wandb_project: str | None = None


class InitFrom(_Config):
    """Weights to start from. A run folder that holds checkpoints resumes from them and does not look here again."""

    path: Path
    part: str | None = None  # which part of a file that holds several, such as student or teacher
    allow_missing: tuple[str, ...] = ()  # patterns of names that the file may lack
    allow_unused: tuple[str, ...] = ()  # patterns of names that it may hold in vain
    time_from_space: bool = False  # of a model of images: attention in time begins as a copy of that in space
