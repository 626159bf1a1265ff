"""Finds losses and gradients that are not finite before an update can spread them, and keeps what a replay needs.

Takes a step again that gave what is not finite: the same weights, samples and draws, with every layer looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trichord.core.errors import UserError
from trichord.core.files import write_whole
from trichord.core.run_folder import RunFolder
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine import checkpoint, checkpoint_files
from trichord.pretrain.engine.device import pick_device
from trichord.pretrain.engine.distributed import World
from trichord.pretrain.engine.prefetch import Feeder
from trichord.pretrain.engine.training import build, draw_as, split
from trichord.pretrain.objectives.base import Objective
from trichord.shards.reading.batch import Batch
from trichord.shards.reading.stream import batches


class FiniteGuard:
    """Looks at every gradient as it arrives, on the device, without waiting for it; `verdict` waits once a step."""

    def __init__(self, trained: Mapping[str, nn.Parameter]) -> None:
        self._seen: list[tuple[str, Tensor]] = []  # since the last verdict
        self._hooks = [
            parameter.register_hook(lambda gradient, what=f"the gradient of {name}": self._look(gradient, what))
            for name, parameter in trained.items()
        ]

    def add_loss(self, loss: Tensor) -> None:
        """Look at a loss."""
        self._look(loss, "the loss")

    def verdict(self) -> list[str]:
        """Name what was not finite since the last verdict, on this rank."""
        if not self._seen:
            return []
        seen, self._seen = self._seen, []
        are_finite = torch.stack([total for _, total in seen]).isfinite().tolist()
        # Each once, though gradients that accumulate come several times.
        return list(dict.fromkeys(what for (what, _), is_finite in zip(seen, are_finite, strict=True) if not is_finite))

    def close(self) -> None:
        """Stop looking."""
        for hook in self._hooks:
            hook.remove()

    def _look(self, tensor: Tensor, what: str) -> None:
        # A sum is finite if and only if all its terms are, short of an overflow that would be trouble as well. It is
        # all that is launched for each of hundreds of gradients; they are judged together.
        self._seen.append((what, tensor.detach().sum(dtype=torch.float32)))


def write_failure(
    folder: Path, world: World, step: int, found: list[str], batch: Batch, losses: Mapping[str, float]
) -> list[str]:
    """Write who was in the batch and what was not finite, for all ranks; give the ranks' findings."""
    mine = {
        "rank": world.rank,
        "not_finite": found[:50],
        "losses": {name: str(value) for name, value in losses.items()},
        "samples": [{"shard": shard, "key": key} for shard, key in zip(batch["shard"], batch["key"], strict=True)],
    }
    everyone = [json.loads(text) for text in world.gather(json.dumps(mine), f"describe the failure of step {step}")]
    if world.rank == 0:
        with suppress(OSError):  # no room: so the save of the weights, which follows, says to all ranks
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / "failure.json", json.dumps({"step": step, "ranks": everyone}, indent=1) + "\n")
    return [f"rank {each['rank']}: {name}" for each in everyone for name in each["not_finite"]]


_LISTED = 20


def replay(
    run: Path, step: int | None, rank: int | None, read: Callable[[Any], RunConfig] = RunConfig.model_validate
) -> list[dict[str, Any]]:
    """Take a failed step of one rank again; give what was found, one row a finding, and none if all is finite now.

    `read` makes the config of what a checkpoint holds of it.
    """
    folder = find_failure(run, step)
    told = json.loads((folder / "failure.json").read_text())
    chosen = _choose_rank(told, rank)
    saved = checkpoint_files.checkpoints_in(folder)
    if not saved:
        raise UserError(f"{folder} holds no weights: the disk may have been full when the run stopped")
    index = checkpoint_files.read_index(saved[0])
    config = read(index.config)
    objective = build(config)
    checkpoint.load_weights(saved[0], index, objective)
    batch, device = _draw(config, told["step"], chosen["rank"], index.world_size)
    if [sample["key"] for sample in chosen["samples"]] != batch["key"]:
        raise UserError(
            f"step {told['step']} held other samples when it failed: data.sources of {saved[0]} changed since"
        )
    objective.to(device)
    rows: list[dict[str, Any]] = []
    parts = split(batch, config.engine.accumulation)
    if len(parts) > 1:
        with objective.casting(device):
            objective.preview(parts, told["step"], lambda part: draw_as(config, told["step"], part, chosen["rank"]))
    for number, part in enumerate(parts):
        draw_as(config, told["step"], number, chosen["rank"])
        rows += _look(objective, config, part, told["step"])
        objective.zero_grad()
    return [{"step": told["step"], "rank": chosen["rank"], **row} for row in rows]


def find_failure(run: Path, step: int | None) -> Path:
    """Find the folder of the newest failure, or of the one of a step."""
    found = sorted(RunFolder(run).failures.glob("step_*/failure.json"))
    if not found:
        raise UserError(f"{run} holds no failed step: expected {RunFolder(run).failures}/step_…/failure.json")
    if step is None:
        return found[-1].parent
    for path in found:
        if path.parent.name == checkpoint_files.name_of(step):
            return path.parent
    raise UserError(f"{run} holds no failure of step {step}. Known: {', '.join(path.parent.name for path in found)}")


def _choose_rank(told: dict[str, Any], rank: int | None) -> dict[str, Any]:
    ranks: list[dict[str, Any]] = told["ranks"]
    if rank is None:
        return next(each for each in ranks if each["not_finite"])
    if rank >= len(ranks):
        raise UserError(f"--rank {rank}: the run had {len(ranks)} ranks")
    return ranks[rank]


def _draw(config: RunConfig, step: int, rank: int, world_size: int) -> tuple[Batch, torch.device]:
    stream = batches(config.stream(), config.transform(), rank, world_size, step)
    device = pick_device(0)
    feeder = Feeder(stream, device)
    try:
        return next(feeder), device
    finally:
        feeder.close()


def _look(objective: Objective, config: RunConfig, batch: Batch, step: int) -> list[dict[str, Any]]:
    objective.cast_to = torch.bfloat16 if config.engine.precision == "bf16" else None
    objective.train()
    rows: list[dict[str, Any]] = []
    with _watching(objective, rows.append):
        output = objective(batch, step)
    for name, value in {"loss": output.loss, **output.losses}.items():
        if not bool(torch.isfinite(value)):
            rows.append({"where": name, "what": f"is {float(value.detach())}", "keys": ", ".join(batch["key"])})
    output.loss.backward()
    for name, parameter in objective.named_parameters():
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            rows.append({"where": f"gradient of {name}", "what": _count(parameter.grad), "keys": ""})
    return rows[:_LISTED]


@contextmanager
def _watching(objective: Objective, note: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Note modules whose inputs are finite and whose outputs are not: there it began."""

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            bad = [tensor for tensor in _tensors(output) if not bool(torch.isfinite(tensor).all())]
            if bad and all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(inputs)):
                note({"where": f"output of {name}", "what": _count(bad[0]), "keys": ""})

        return hook

    hooks = [module.register_forward_hook(look(name)) for name, module in objective.named_modules() if name]
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
