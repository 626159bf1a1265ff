"""Assembly of a run: the objective with its initial or resumed weights, AdamW, and DeepSpeed around them."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
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
from trichord.pretrain.engine.checkpoint import AdamState
from trichord.pretrain.engine.checkpoint_files import CheckpointIndex
from trichord.pretrain.engine.config import deepspeed_config
from trichord.pretrain.engine.distributed import World
from trichord.pretrain.engine.parameter_groups import ParameterGroup
from trichord.pretrain.objectives.base import Objective, StepOutput
from trichord.shards.reading.batch import Batch


@dataclass(frozen=True)
class Training:
    """The objects that an update needs."""

    objective: Objective
    groups: list[ParameterGroup]
    engine: Any  # DeepSpeed's engine
    adam: AdamState
    start_step: int


def prepare(config: RunConfig, world: World, resumed: tuple[Path, CheckpointIndex] | None) -> Training:
    """Build a new run, or one resumed from a checkpoint."""
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
    """Restore `functional.linear` on exit: DeepSpeed's stage 3 replaces it for the rest of the process.

    Otherwise later computations in the process, such as an evaluation of the run, would round differently.
    """
    linear = functional.linear
    try:
        yield
    finally:
        functional.linear = linear


def build(config: RunConfig) -> Objective:
    """Build the objective with initial weights drawn from the seed; DeepSpeed broadcasts rank 0's weights to all."""
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
        raise UserError(f"DeepSpeed rejects engine.deepspeed={config.engine.deepspeed}: {error}") from error
    return engine


def import_deepspeed(device_type: str) -> Any:
    """Import DeepSpeed for this type of device, without its output and without compiling anything."""
    os.environ.setdefault("DS_ACCELERATOR", device_type)
    # Thousands of warnings about collectives that torch renamed, all inside DeepSpeed.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed|deepspeed")
    # Its logger stays on stderr: stdout is for results, such as those of `--json`.
    with redirect_stdout(sys.stderr), _without_unused_imports():
        import deepspeed
        from deepspeed import ops

    # It would be compiled for a minute at the first start, to speed up what gloo does well enough.
    ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return deepspeed


@contextmanager
def _without_unused_imports() -> Iterator[None]:
    """Hide transformers and torch.compile from DeepSpeed's import; they take a third of its time on each rank.

    DeepSpeed imports transformers to patch it when models are loaded, and compiles functions for mixtures of experts,
    which loads torch's compiler. Neither feature is used here.
    """
    compiler = torch.compile
    is_hidden = "transformers" not in sys.modules
    if is_hidden:
        sys.modules["transformers"] = cast(ModuleType, None)  # makes `import transformers` raise ImportError
    torch.compile = cast(Any, _uncompiled)
    try:
        yield
    finally:
        torch.compile = compiler
        if is_hidden:
            del sys.modules["transformers"]


def _uncompiled(function: Any = None, **_: object) -> Any:
    return _uncompiled if function is None else function


def set_rates(training: Training, config: RunConfig, step: int) -> dict[str, float]:
    """Set each group's learning rate and weight decay for this step; return the unscaled values."""
    optimiser = config.optimiser
    rate = optimiser.learning_rate_at(step, config.steps, config.data.batch_size)
    decay = optimiser.weight_decay.at(step, config.steps)
    for group, own in zip(training.engine.optimizer.param_groups, training.groups, strict=True):
        group["lr"] = 0.0 if step < own.frozen_steps else rate * own.lr_scale
        group["weight_decay"] = decay * own.decay_scale
    return {"learning_rate": rate, "weight_decay": decay}


def forward(training: Training, config: RunConfig, batch: Batch, step: int, part: int, rank: int) -> StepOutput:
    """Run the objective on one part of a step's batch."""
    draw_as(config, step, part, rank)
    output: StepOutput = training.engine(batch=batch, step=step)  # by name, so that ZeRO 3 does not look into it
    return output


def preview(training: Training, config: RunConfig, parts: Sequence[Batch], step: int, rank: int) -> None:
    """Pass all parts of the step to the objective's `preview` if there are several."""
    if len(parts) > 1:
        with training.objective.casting(parts[0].valid.device):
            training.objective.preview(parts, step, lambda part: draw_as(config, step, part, rank))


def gradient_norm(training: Training) -> Tensor | None:
    """Return the norm of all gradients between backward and update; None under ZeRO, where DeepSpeed computes it."""
    if training.adam.stage:
        return None
    gradients = [parameter.grad for parameter in training.adam.parameters.values() if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def draw_as(config: RunConfig, step: int, part: int, rank: int) -> None:
    """Seed the model's random draws (drop path) from these values alone, so that no generator state needs saving."""
    torch.manual_seed(derive_seed(config.seed, "model", step, part, rank))


def split(batch: Batch, parts: int) -> list[Batch]:
    """Split a rank's batch into equal parts, in order."""
    if parts == 1:
        return [batch]
    size = len(batch) // parts
    return [batch.rows(slice(i * size, (i + 1) * size)) for i in range(parts)]
