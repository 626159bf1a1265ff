"""Everything that decides a run, checked as a whole before anything is built; needs no torch."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, model_validator

from pretrain.backbones.specs import BackboneSpec
from pretrain.engine.config import CheckpointConfig, EngineConfig, InitFrom, LogConfig, OptimiserConfig
from pretrain.engine.deepspeed_config import deepspeed_config
from pretrain.engine.schedules import Constant, Cosine, Linear, Schedule, Steps
from pretrain.objectives.specs import ObjectiveSpec
from shards.errors import UserError
from shards.reading.order import nearest_divisors
from shards.reading.stream_config import DataConfig, StreamConfig


class RunConfig(BaseModel):
    """A run: with the data it names, the same config gives the same weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: NonNegativeInt = 0
    steps: PositiveInt  # updates of the weights
    data: DataConfig
    backbone: BackboneSpec
    objective: ObjectiveSpec
    optimiser: OptimiserConfig
    engine: EngineConfig = EngineConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    init_from: InitFrom | None = None

    def stream(self) -> StreamConfig:
        """Give what is read, in the order that the run's seed makes."""
        return StreamConfig.model_validate({**dict(self.data), "seed": self.seed})

    @model_validator(mode="after")
    def _parts_agree(self) -> RunConfig:
        complaints = [*self._batch_complaints(), *self._view_complaints(), *self._schedule_complaints()]
        if complaints:
            raise ValueError("\n".join(complaints))
        return self

    def _batch_complaints(self) -> Iterator[str]:
        batch_size, lanes = self.data.batch_size, self.data.lanes
        if batch_size % lanes:
            near = [size for size in (batch_size // lanes * lanes, (batch_size // lanes + 1) * lanes) if size]
            yield (
                f"data.batch_size={batch_size} cannot be taken evenly from data.lanes={lanes}. Nearest: "
                f"data.batch_size {' or '.join(map(str, near))}, or data.lanes {nearest_divisors(batch_size, lanes)}"
            )
        try:
            deepspeed_config(self.engine, batch_size, world_size=1)
        except UserError as error:
            yield str(error)

    def _view_complaints(self) -> Iterator[str]:
        step = self.backbone.size_step
        for size in sorted({view.crop.size for view in self.objective.sample_spec().views.views}):
            if size % step:
                near = [each for each in (size // step * step, (size // step + 1) * step) if each]
                yield (
                    f"a view of {size} pixels is not made of whole patches of {step}, as backbone "
                    f"{self.backbone.kind} takes them. Nearest sizes: {' or '.join(map(str, near))}"
                )

    def _schedule_complaints(self) -> Iterator[str]:
        for name, schedule in _schedules(self):
            if schedule.warmup_steps >= self.steps:
                yield (
                    f"{name}.warmup_steps={schedule.warmup_steps} leaves nothing of steps={self.steps}: the run would "
                    f"end while warming up. A twentieth of the run would be {name}.warmup_steps={self.steps // 20}"
                )
            if isinstance(schedule, Steps) and schedule.milestones[-1] >= self.steps:
                yield f"{name}.milestones={list(schedule.milestones)} go beyond the last step, {self.steps - 1}"


def _schedules(config: BaseModel, above: str = "") -> Iterator[tuple[str, Schedule]]:
    """Find all schedules of a config with their dotted names."""
    for name, value in config:
        if isinstance(value, Constant | Cosine | Linear | Steps):
            yield f"{above}{name}", value
        elif isinstance(value, BaseModel):
            yield from _schedules(value, f"{above}{name}.")
