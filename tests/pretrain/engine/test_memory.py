"""Estimated memory equals real memory: the rehearsal counts what torch's allocator hands out."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

from tests.pretrain.engine.small_run import settings, small_config
from tests.pretrain.processes import run_ranks
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine.memory import LiveMemory, ModelSize, measure, measure_with_flops, rank_memory
from trichord.pretrain.engine.rehearsal import fake_batch

NOWHERE = Path("nowhere")
WIDE = {"backbone__dim": 32, "backbone__depth": 3, "objective__prototypes": 300}


def allocator_peak(work: Callable[[], object]) -> int:
    """Return the peak bytes that torch's allocator had handed out, by its own count."""
    gc.collect()  # so that no earlier tensor is freed meanwhile
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    waiting, found = list(seen.profiler.kineto_results.experimental_event_tree()), []
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if event.tag == _EventType.Allocation:
            found.append((event.start_time_ns, event.extra_fields.total_allocated, event.extra_fields.alloc_size))
    _, total, size = min(found)
    return max(each[1] for each in found) - (total - size)


def real_step(precision: str, checkpoints: bool) -> tuple[Callable[[], object], list[Tensor]]:
    """Return a step of a small run on real tensors, and the tensors that exist before it."""
    config = wide_config(precision, checkpoints)
    torch.manual_seed(0)
    objective = config.build_objective()
    objective.cast_to = torch.bfloat16 if precision == "bf16" else None
    batch = fake_batch(config.objective.sample_spec(), 4)
    for parameter in objective.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda parameter: setattr(parameter, "grad", None))
    known = [*objective.parameters(), *objective.buffers(), *batch.video, *batch.audio]
    return lambda: objective(batch, config.steps - 1).loss.backward(), known


def wide_config(precision: str, checkpoints: bool) -> RunConfig:
    return small_config(NOWHERE, engine__precision=precision, backbone__activation_checkpointing=checkpoints, **WIDE)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpoints", [False, True])
def test_rehearsed_step_uses_the_memory_of_a_real_one(precision: str, checkpoints: bool) -> None:
    rehearsed = measure(wide_config(precision, checkpoints), 4, checkpoints).step_bytes
    step, known = real_step(precision, checkpoints)
    with LiveMemory(known) as live:
        step()
    assert rehearsed == live.peak_bytes
    # Beside tensors the allocator hands out what kernels use within themselves. oneDNN's share depends on the processor
    # and the number of threads; without it there are the states of the generator that checkpointing keeps, the buffers
    # of fused attention, and on some processors a little for products in bf16.
    step, _ = real_step(precision, checkpoints)
    with torch.backends.mkldnn.flags(enabled=False):
        real = allocator_peak(step)
    assert (0.93 if checkpoints else 0.99) * real < rehearsed <= real


def test_checkpointing_and_bf16_need_less_memory_and_clips_are_counted() -> None:
    config = small_config(NOWHERE, **WIDE)
    plain = measure(config, 8, checkpoints_activations=False)
    assert measure(config, 8, checkpoints_activations=True).step_bytes < plain.step_bytes
    assert measure(config, 4, checkpoints_activations=False).step_bytes == pytest.approx(plain.step_bytes / 2, rel=0.1)
    assert measure_with_flops(config, 8)[0] == plain
    objective = config.build_objective()
    assert plain.trained == sum(each.numel() for each in objective.parameters() if each.requires_grad)
    assert plain.frozen == sum(each.numel() for each in objective.parameters() if not each.requires_grad)
    globals_and_locals = 3 * (2 * 2 * 16 * 16 + (2 + 1) * 8 * 8)
    assert plain.batch_bytes == 8 * globals_and_locals


def test_a_tensor_counts_once_and_until_it_is_freed() -> None:
    known = torch.zeros(100)
    with LiveMemory([known]) as live:
        view = known[10:]
        first = torch.zeros(1000)
        second = first.view(10, 100)
        assert live.bytes == 4000
        del first
        assert live.bytes == 4000
        del second
        assert live.bytes == 0
        view.add_(torch.ones(90))
    assert live.peak_bytes == 4000


def test_zero_stages_partition_as_in_the_paper() -> None:
    config = small_config(
        NOWHERE, engine__accumulation=2, engine__deepspeed={"zero_optimization": {"reduce_bucket_size": 10}}
    )
    size = ModelSize(trained=1000, frozen=800, batch_bytes=7, step_bytes=5)
    found = [rank_memory(config, size, stage, ranks=4) for stage in range(4)]
    assert [each.trained for each in found] == [4000, 4000, 4000, 1000]
    assert [each.frozen for each in found] == [3200, 3200, 3200, 800]
    assert [each.gradients for each in found] == [4000, 4000, 1000, 1000]
    assert [each.adam for each in found] == [8000, 2000, 2000, 2000]
    copy, bucket, whole = 1000, 40, 4000 + 3200
    assert [each.deepspeed for each in found] == [4000, copy + bucket, copy + bucket, copy + bucket + 2 * whole]
    for each in found:
        assert (each.batches, each.step) == (2 * 2 * 7, 5)
        parts = (each.trained, each.frozen, each.gradients, each.adam, each.deepspeed, each.batches, each.step)
        assert each.total == sum(parts)


PROGRAM = """
import gc, json, os, sys
import torch
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine.distributed import join_world
from trichord.pretrain.engine.training import prepare
from tests.pretrain.engine.test_memory import held_bytes
config = RunConfig.model_validate_json(sys.argv[1])
training = prepare(config, join_world(), None)
print(json.dumps(held_bytes()), flush=True)
os._exit(0)
"""


def held_bytes() -> int:
    """Return the memory of all tensors in this process, each counted once."""
    gc.collect()
    storages = {
        each.untyped_storage().data_ptr(): each.untyped_storage().nbytes()
        for each in gc.get_objects()
        if isinstance(each, torch.Tensor)
    }
    return sum(storages.values())


@pytest.mark.parametrize("stage", [1, 3])  # 2 starts like 1, and 0 has no buffers
def test_memory_between_steps_equals_the_derived_one(stage: int) -> None:
    """Gradients and buckets exist only during steps, unless DeepSpeed keeps buffers for the gradients."""
    bucket = {"zero_optimization": {"reduce_bucket_size": 1000}}
    wide: dict[str, Any] = {"backbone__dim": 64, "objective__hidden_dim": 128, "engine__deepspeed": bucket}
    config = settings(NOWHERE, engine__zero_stage=stage, **wide)
    outputs = run_ranks(["-c", PROGRAM, json.dumps(config)], ranks=2)
    checked = small_config(NOWHERE, engine__zero_stage=stage, **wide)
    memory = rank_memory(checked, measure(checked, 1, checkpoints_activations=False), stage, ranks=2)
    copy = memory.adam // 2
    kept_gradients = memory.gradients if stage == 3 else 0
    expected = memory.trained + memory.frozen + memory.adam + copy + kept_gradients
    assert int(outputs[0].splitlines()[-1]) == pytest.approx(expected, rel=0.05)
