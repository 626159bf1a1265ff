"""Puts a run together: the objective with its first or resumed weights, AdamW, and DeepSpeed around them."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from trichord.core.errors import UserError
from trichord.core.seeds import derive_seed
from trichord.pretrain.backbones.base import Encoder
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine import checkpoint
from trichord.pretrain.engine.adam_state import AdamState
from trichord.pretrain.engine.checkpoint_files import CheckpointIndex
from trichord.pretrain.engine.deepspeed_config import deepspeed_config
from trichord.pretrain.engine.distributed import World
from trichord.pretrain.engine.parameter_groups import ParameterGroup
from trichord.pretrain.objectives.base import Objective, StepOutput
from trichord.shards.reading.batch import Batch


@dataclass(frozen=True)
class Training:
    """Everything that one update needs."""

    objective: Objective
    groups: list[ParameterGroup]
    engine: Any  # DeepSpeed's
    adam: AdamState
    start_step: int


def prepare(config: RunConfig, world: World, resumed: tuple[Path, CheckpointIndex] | None) -> Training:
    """Build the run, fresh or from a checkpoint."""
    objective = build(config)
    if resumed:
        checkpoint.load_weights(*resumed, objective)
    else:
        config.begin(objective)
    objective.cast_to = torch.bfloat16 if config.engine.precision == "bf16" else None
    objective.keeps_casts = config.engine.zero_stage < 3
    if config.engine.compile:
        for module in objective.modules():
            if isinstance(module, Encoder):
                module.compile()
    groups = objective.parameter_groups(config.optimiser.rules)
    engine = _initialise_deepspeed(config, world, objective, groups)
    trained = {name: parameter for name, parameter in objective.named_parameters() if parameter.requires_grad}
    adam = AdamState(engine, trained, config.engine.zero_stage)
    if resumed:
        checkpoint.load_moments(*resumed, adam)
    return Training(objective, groups, engine, adam, resumed[1].step if resumed else 0)


@contextmanager
def own_linear() -> Iterator[None]:
    """Restore `functional.linear` at the end: DeepSpeed's stage 3 replaces it for the rest of the process.

    Whatever the process computed afterwards, such as an evaluation of the run, would round differently.
    """
    linear = functional.linear
    try:
        yield
    finally:
        functional.linear = linear


def build(config: RunConfig) -> Objective:
    """Make the objective with the first weights that the seed gives; DeepSpeed sends the first rank's to all."""
    torch.manual_seed(derive_seed(config.seed, "first weights"))
    return config.build_objective()


def _initialise_deepspeed(config: RunConfig, world: World, objective: Objective, groups: list[ParameterGroup]) -> Any:
    deepspeed = import_deepspeed(world.device.type)
    deepspeed.init_distributed(dist_init_required=False)
    adam = torch.optim.AdamW(
        [{"params": list(group.parameters.values()), "name": group.name} for group in groups],
        lr=0.0,  # set before each update
        betas=config.optimiser.betas,
        eps=config.optimiser.eps,
        fused=True,
    )
    try:
        engine, *_ = deepspeed.initialize(
            model=objective.to(world.device),
            optimizer=adam,
            config=deepspeed_config(config.engine, config.data.batch_size, world.size),
            dist_init_required=False,
        )
    except ValidationError as error:
        raise UserError(f"DeepSpeed does not take engine.deepspeed={config.engine.deepspeed}: {error}") from error
    return engine


def import_deepspeed(device_type: str) -> Any:
    """Import DeepSpeed with the right accelerator, quietly, and without compiling anything on the way."""
    os.environ.setdefault("DS_ACCELERATOR", device_type)
    # Thousands of notes on collectives that torch renamed, all inside DeepSpeed.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed|deepspeed")
    # Its logger stays on stderr: stdout is for figures, of `--json` for one.
    with redirect_stdout(sys.stderr), _without_what_is_not_used():
        import deepspeed
        from deepspeed import ops

    # It would be compiled at the first start, for a minute, to speed up what gloo does well enough.
    ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return deepspeed


@contextmanager
def _without_what_is_not_used() -> Iterator[None]:
    """Hide from DeepSpeed's import what costs each rank a third of it: transformers, and a compiler for its experts.

    It asks for the first to patch it where a model is asked for, and compiles functions for mixtures of experts, which
    brings torch's whole compiler along. Neither is met in what is used of DeepSpeed here.
    """
    compiler = torch.compile
    is_hidden = "transformers" not in sys.modules
    if is_hidden:
        sys.modules["transformers"] = cast(ModuleType, None)  # which makes `import transformers` an ImportError
    torch.compile = cast(Any, _as_it_is)
    try:
        yield
    finally:
        torch.compile = compiler
        if is_hidden:
            del sys.modules["transformers"]


def _as_it_is(function: Any = None, **_: object) -> Any:
    return _as_it_is if function is None else function


def set_rates(training: Training, config: RunConfig, step: int) -> dict[str, float]:
    """Set each group's learning rate and weight decay for this step; give the base ones."""
    optimiser = config.optimiser
    rate = optimiser.learning_rate_at(step, config.steps, config.data.batch_size)
    decay = optimiser.weight_decay.at(step, config.steps)
    for group, own in zip(training.engine.optimizer.param_groups, training.groups, strict=True):
        group["lr"] = 0.0 if step < own.frozen_steps else rate * own.lr_scale
        group["weight_decay"] = decay * own.decay_scale
    return {"learning_rate": rate, "weight_decay": decay}


def forward(training: Training, config: RunConfig, batch: Batch, step: int, part: int, rank: int) -> StepOutput:
    """Run the objective on a part of a step's batch."""
    draw_as(config, step, part, rank)
    output: StepOutput = training.engine(batch, step)
    return output


def preview(training: Training, config: RunConfig, parts: Sequence[Batch], step: int, rank: int) -> None:
    """Let the objective see all parts of a step that has several."""
    if len(parts) > 1:
        with training.objective.casting(parts[0]["valid"].device):
            training.objective.preview(parts, step, lambda part: draw_as(config, step, part, rank))


def gradient_norm(training: Training) -> Tensor | None:
    """Give the norm of all gradients between backward and update; nothing under ZeRO, where DeepSpeed measures it."""
    if training.adam.stage:
        return None
    gradients = [parameter.grad for parameter in training.adam.parameters.values() if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def draw_as(config: RunConfig, step: int, part: int, rank: int) -> None:
    """Seed what the model draws (drop path): a function of these alone, so no generator's state needs to be saved."""
    torch.manual_seed(derive_seed(config.seed, "model", step, part, rank))


def split(batch: Batch, parts: int) -> list[Batch]:
    """Cut a rank's batch into equal parts, in order."""
    if parts == 1:
        return [batch]
    size = len(batch["key"]) // parts
    return [_part(batch, slice(i * size, (i + 1) * size)) for i in range(parts)]


def _part(batch: Batch, rows: slice) -> Batch:
    kept: dict[str, Any] = {}
    fields: Mapping[str, Any] = batch
    for name, value in fields.items():
        if name in ("video", "audio"):
            kept[name] = [view[rows] for view in value]
        elif name in ("audio_present", "valid", "text", "labels", "key", "shard", "source", "position"):
            kept[name] = value[rows]
        else:
            kept[name] = value
    return cast(Batch, kept)
