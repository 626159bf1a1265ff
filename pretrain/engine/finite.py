"""Finds losses and gradients that are not finite before an update can spread them, and keeps what a replay needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pretrain.engine.checkpoint_files import write_text
from pretrain.engine.distributed import World
from shards.reading.batch import Batch


class FiniteGuard:
    """Looks at every gradient as it arrives, on the device, without waiting for it; `verdict` waits once a step."""

    def __init__(self, trained: Mapping[str, nn.Parameter], device: torch.device) -> None:
        self._names = list(trained)
        self._is_bad = torch.zeros(len(self._names), dtype=torch.bool, device=device)
        self._bad_loss = torch.zeros((), dtype=torch.bool, device=device)
        self._hooks = [
            parameter.register_hook(lambda gradient, place=place: self._look(gradient, place))
            for place, parameter in enumerate(trained.values())
        ]

    def add_loss(self, loss: Tensor) -> None:
        """Look at a loss."""
        self._bad_loss |= ~torch.isfinite(loss.detach())

    def verdict(self) -> list[str]:
        """Name what was not finite since the last verdict, on this rank."""
        if not bool(self._bad_loss | self._is_bad.any()):
            return []
        found = ["the loss"] if bool(self._bad_loss) else []
        found += [f"the gradient of {self._names[place]}" for place in self._is_bad.nonzero().flatten().tolist()]
        self._bad_loss.zero_()
        self._is_bad.zero_()
        return found

    def close(self) -> None:
        """Stop looking."""
        for hook in self._hooks:
            hook.remove()

    def _look(self, gradient: Tensor, place: int) -> None:
        # A sum is finite if and only if all its terms are, short of an overflow that would be trouble as well.
        self._is_bad[place] |= ~torch.isfinite(gradient.sum())


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
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "failure.json", json.dumps({"step": step, "ranks": everyone}, indent=1) + "\n")
    return [f"rank {each['rank']}: {name}" for each in everyone for name in each["not_finite"]]
