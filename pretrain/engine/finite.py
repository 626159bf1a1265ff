"""Detection of non-finite losses and gradients before an update applies them, and replay of the failed step.

A failure is written with all that a replay needs. The replay repeats the step with the same weights, samples and random
draws, and checks the output of every layer.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, NonNegativeInt, ValidationError
from torch import Tensor, nn

from trichord.core.console import show_figures
from trichord.core.errors import UserError
from trichord.core.files import write_whole
from trichord.core.reading import mistake, read_bytes
from trichord.core.run_folder import RunFolder
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine import checkpoint, checkpoint_files
from trichord.pretrain.engine.device import pick_device
from trichord.pretrain.engine.distributed import World
from trichord.pretrain.engine.prefetch import Prefetcher
from trichord.pretrain.engine.training import build, draw_as, split
from trichord.pretrain.objectives.base import Objective
from trichord.shards.reading.batch import Batch
from trichord.shards.reading.stream import batches


class FiniteGuard:
    """Checks every gradient as it is computed, without synchronising the device; `verdict` does so once a step."""

    def __init__(self, trained: Mapping[str, nn.Parameter]) -> None:
        self._seen: list[tuple[str, Tensor]] = []  # since the last verdict
        self._hooks = [
            parameter.register_hook(lambda gradient, what=f"the gradient of {name}": self._record(gradient, what))
            for name, parameter in trained.items()
        ]

    def add_loss(self, loss: Tensor) -> None:
        """Record a loss for the next verdict."""
        self._record(loss, "the loss")

    def verdict(self) -> list[str]:
        """Return the names of the tensors that were not finite on this rank since the last verdict."""
        if not self._seen:
            return []
        seen, self._seen = self._seen, []
        are_finite = torch.stack([total for _, total in seen]).isfinite().tolist()
        # Each name once: accumulated gradients are recorded several times.
        return list(dict.fromkeys(what for (what, _), is_finite in zip(seen, are_finite, strict=True) if not is_finite))

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()

    def _record(self, tensor: Tensor, what: str) -> None:
        # A sum is finite if and only if all its terms are, except on overflow, which is a problem as well. Only the sum
        # is launched for each of hundreds of gradients; they are checked together.
        self._seen.append((what, tensor.detach().sum(dtype=torch.float32)))


def write_failure(
    folder: Path, world: World, step: int, found: list[str], batch: Batch, losses: Mapping[str, float]
) -> list[str]:
    """Write all ranks' samples and non-finite tensors to failure.json; return the findings, each with its rank."""
    mine = {
        "rank": world.rank,
        "not_finite": found[:50],
        "losses": {name: str(value) for name, value in losses.items()},
        "samples": [{"shard": shard, "key": key} for shard, key in zip(batch.shard, batch.key, strict=True)],
    }
    everyone = [json.loads(text) for text in world.gather(json.dumps(mine), f"describe the failure of step {step}")]
    if world.rank == 0:
        with suppress(OSError):  # disk full: the save of the weights that follows reports it on all ranks
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / "failure.json", json.dumps({"step": step, "ranks": everyone}, indent=1) + "\n")
    return [f"rank {each['rank']}: {name}" for each in everyone for name in each["not_finite"]]


_LISTED = 20


def run_replay(arguments: Namespace, read: Callable[[Any], RunConfig] = RunConfig.model_validate) -> int:
    """Repeat a failed step and print where it is not finite; `read` parses the config stored in a checkpoint."""
    rows = replay(arguments.run_folder, arguments.step, arguments.rank, read)
    if not rows:
        print("everything is finite on this machine; the device or its kernels differ from the run's", file=sys.stderr)
        return 0
    show_figures("not finite, in the order of the computation", rows, arguments.json)
    return 1


def replay(
    run: Path, step: int | None, rank: int | None, read: Callable[[Any], RunConfig] = RunConfig.model_validate
) -> list[dict[str, Any]]:
    """Repeat a failed step of one rank; return one row per finding, and no rows if everything is finite now.

    `read` makes a config from the one stored in a checkpoint.
    """
    folder = find_failure(run, step)
    failure = _read_failure(folder / "failure.json")
    chosen = _choose_rank(failure, rank)
    saved = checkpoint_files.checkpoints_in(folder)
    if not saved:
        raise UserError(f"{folder} has no weights: the disk may have been full when the run stopped")
    index = checkpoint_files.read_index(saved[0])
    config = read(index.config)
    objective = build(config)
    checkpoint.load_weights(saved[0], index, objective)
    batch, device = _draw(config, failure.step, chosen.rank, index.world_size)
    if [sample["key"] for sample in chosen.samples] != batch.key:
        raise UserError(
            f"step {failure.step} had other samples when it failed: data.sources of {saved[0]} changed since then"
        )
    objective.to(device)
    rows: list[dict[str, Any]] = []
    parts = split(batch, config.engine.accumulation)
    if len(parts) > 1:
        with objective.casting(device):
            objective.preview(parts, failure.step, lambda part: draw_as(config, failure.step, part, chosen.rank))
    for number, part in enumerate(parts):
        draw_as(config, failure.step, number, chosen.rank)
        rows += _check_part(objective, config, part, failure.step)
        objective.zero_grad()
    return [{"step": failure.step, "rank": chosen.rank, **row} for row in rows]


class _FailedRank(BaseModel):
    rank: NonNegativeInt
    not_finite: list[str]
    samples: list[dict[str, str]]


class _Failure(BaseModel):
    step: NonNegativeInt
    ranks: list[_FailedRank]


def _read_failure(path: Path) -> _Failure:
    try:
        found = _Failure.model_validate_json(read_bytes(path))
    except ValidationError as error:
        raise UserError(f"{path} does not describe a failure: {mistake(error)}") from error
    if not any(each.not_finite for each in found.ranks):
        raise UserError(f"{path} names no rank that failed")
    return found


def find_failure(run: Path, step: int | None) -> Path:
    """Return the folder of the newest failure, or of the failure of `step`."""
    found = sorted(RunFolder(run).failures.glob("step_*/failure.json"))
    if not found:
        raise UserError(f"{run} has no failed step: expected {RunFolder(run).failures}/step_…/failure.json")
    if step is None:
        return found[-1].parent
    for path in found:
        if path.parent.name == checkpoint_files.name_of(step):
            return path.parent
    raise UserError(f"{run} has no failure of step {step}. Known: {', '.join(path.parent.name for path in found)}")


def _choose_rank(failure: _Failure, rank: int | None) -> _FailedRank:
    ranks = failure.ranks
    if rank is None:
        return next(each for each in ranks if each.not_finite)
    if rank >= len(ranks):
        raise UserError(f"--rank {rank}: expected a rank from 0 to {len(ranks) - 1}")
    return ranks[rank]


def _draw(config: RunConfig, step: int, rank: int, world_size: int) -> tuple[Batch, torch.device]:
    stream = batches(config.stream(), config.transform(), rank, world_size, step)
    device = pick_device(0)
    prefetcher = Prefetcher(stream, device)
    try:
        return next(prefetcher), device
    finally:
        prefetcher.close()


def _check_part(objective: Objective, config: RunConfig, batch: Batch, step: int) -> list[dict[str, Any]]:
    objective.cast_to = torch.bfloat16 if config.engine.precision == "bf16" else None
    objective.train()
    rows: list[dict[str, Any]] = []
    with _checked_outputs(objective, rows.append):
        output = objective(batch, step)
    for name, value in {"loss": output.loss, **output.losses}.items():
        if not bool(torch.isfinite(value)):
            rows.append({"where": name, "what": f"is {float(value.detach())}", "keys": ", ".join(batch.key)})
    output.loss.backward()
    for name, parameter in objective.named_parameters():
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            rows.append({"where": f"gradient of {name}", "what": _count(parameter.grad), "keys": ""})
    return rows[:_LISTED]


@contextmanager
def _checked_outputs(objective: Objective, note: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Report modules whose inputs are finite and whose outputs are not, the origin of non-finite values."""

    def check(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            bad = [tensor for tensor in _tensors(output) if not bool(torch.isfinite(tensor).all())]
            if bad and all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(inputs)):
                note({"where": f"output of {name}", "what": _count(bad[0]), "keys": ""})

        return hook

    hooks = [module.register_forward_hook(check(name)) for name, module in objective.named_modules() if name]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def _count(tensor: Tensor) -> str:
    nan, inf = int(torch.isnan(tensor).sum()), int(torch.isinf(tensor).sum())
    return f"{nan} of {tensor.numel()} are NaN, {inf} infinite"
