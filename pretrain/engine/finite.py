"""Finds losses and gradients that are not finite before an update can spread them, and keeps what a replay needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from trichord.core.files import write_whole
from trichord.pretrain.engine.distributed import World
from trichord.shards.reading.batch import Batch

FAILURES = "failures"  # the folder of a run in which steps that were not finite are kept


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
