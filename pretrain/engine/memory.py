"""Memory of a rank during training, for each ZeRO stage: computed from the config without allocating anything.

The model is Rajbhandari et al. 2020, "ZeRO", section 3, for AdamW over float32 weights, plus what DeepSpeed keeps. What
a step itself holds (activations and workspaces at its peak) is measured on a rehearsal of one micro-batch of fake
tensors, by tracking the bytes of live tensors. Tensors are counted to the byte; memory inside kernels, such as oneDNN's
copies in bf16, depends on the processor and is not included.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine.config import deepspeed_config
from trichord.pretrain.engine.rehearsal import Rehearsal, count_flops, rehearse

_FLOAT32 = 4
_DEEPSPEED_BUCKET = 500_000_000  # elements; its default, also the size of one all-reduce without ZeRO
_DEEPSPEED_REUSE, _DEEPSPEED_PREFETCH = 1_000_000_000, 50_000_000  # elements; its defaults for stage 3


@dataclass(frozen=True)
class ModelSize:
    """Parameter counts of an objective, and the memory of one micro-batch."""

    trained: int
    frozen: int
    batch_bytes: int  # of a micro-batch's frames and spectrograms, as the loader delivers them
    step_bytes: int  # peak of forward and backward, without parameters, their gradients and the batch


@dataclass(frozen=True)
class RankMemory:
    """Memory of one rank under one ZeRO stage, in bytes."""

    stage: int
    trained: int
    frozen: int
    gradients: int
    adam: int
    deepspeed: int  # its copies and buckets
    batches: int  # this step's and the next one's
    step: int

    @property
    def total(self) -> int:
        return self.trained + self.frozen + self.gradients + self.adam + self.deepspeed + self.batches + self.step


def measure(config: RunConfig, micro_batch: int, checkpoints_activations: bool) -> ModelSize:
    """Rehearse a micro-batch and return its size."""
    with rehearse(config, micro_batch, checkpoints_activations) as rehearsal:
        return _measure_step(rehearsal)


def measure_with_flops(config: RunConfig, micro_batch: int) -> tuple[ModelSize, int]:
    """Return size and operations from one rehearsal, without activation checkpointing whatever the config says."""
    with rehearse(config, micro_batch, checkpoints_activations=False) as rehearsal:
        found: list[ModelSize] = []
        flops = count_flops(lambda: found.append(_measure_step(rehearsal)))
        return found[0], flops


def _measure_step(rehearsal: Rehearsal) -> ModelSize:
    objective, batch = rehearsal.objective, rehearsal.batch
    inputs = [*batch.video, *batch.audio]
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    for parameter in trained:  # gradients are counted separately, so each is dropped as soon as it is accumulated
        parameter.register_post_accumulate_grad_hook(_drop_gradient)
    known = [*objective.parameters(), *objective.buffers(), *inputs]
    with LiveMemory(known) as live:
        rehearsal.forward().backward()
    return ModelSize(
        trained=sum(parameter.numel() for parameter in trained),
        frozen=sum(parameter.numel() for parameter in objective.parameters() if not parameter.requires_grad),
        batch_bytes=sum(each.untyped_storage().nbytes() for each in inputs),
        step_bytes=live.peak_bytes,
    )


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def rank_memory(config: RunConfig, size: ModelSize, stage: int, ranks: int) -> RankMemory:
    """Return the memory of one of `ranks` ranks under this stage."""
    engine = config.engine.model_copy(update={"zero_stage": stage})
    zero: Mapping[str, Any] = deepspeed_config(engine, config.data.batch_size, ranks)["zero_optimization"]

    def share(elements: int, from_stage: int) -> int:
        return _FLOAT32 * (-(-elements // ranks) if stage >= from_stage else elements)

    return RankMemory(
        stage=stage,
        trained=share(size.trained, 3),
        frozen=share(size.frozen, 3),
        gradients=share(size.trained, 2),
        adam=2 * share(size.trained, 1),
        deepspeed=_FLOAT32 * _deepspeed_elements(zero, size, stage, ranks),
        batches=2 * size.batch_bytes * config.engine.accumulation,
        step=size.step_bytes,
    )


def _deepspeed_elements(zero: Mapping[str, Any], size: ModelSize, stage: int, ranks: int) -> int:
    if ranks == 1 and stage == 0:
        return 0
    if stage == 0:  # gradients are concatenated for the all-reduce
        return min(size.trained, _DEEPSPEED_BUCKET)
    bucket = int(zero.get("reduce_bucket_size", _DEEPSPEED_BUCKET))
    copy = -(-size.trained // ranks)  # of the weights that this rank updates
    if stage < 3:
        return copy + bucket * (2 if zero.get("overlap_comm", False) else 1)
    # Trained weights stay gathered from forward to backward; prefetched ones are in a separate buffer first.
    ahead = int(zero.get("stage3_prefetch_bucket_size", _DEEPSPEED_PREFETCH))
    whole = min(size.trained, int(zero.get("stage3_max_reuse_distance", _DEEPSPEED_REUSE))) + min(size.frozen, ahead)
    return copy + bucket + whole + min(whole, ahead)


class LiveMemory(TorchDispatchMode):
    """Dispatch mode that tracks the storage of every tensor an operation returns, each once, until it is freed."""

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self.peak_bytes = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet(each.untyped_storage() for each in known)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return found

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.bytes += size
        self.peak_bytes = max(self.peak_bytes, self.bytes)
        weakref.finalize(storage, self._subtract, size)

    def _subtract(self, size: int) -> None:
        self.bytes -= size
