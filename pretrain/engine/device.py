"""Which device a rank computes on, and what that device could do in a second at most: what MFU is a share of."""

from __future__ import annotations

import time
from typing import Literal, NamedTuple

import torch

from trichord.core.errors import UserError
from trichord.pretrain.engine.gpus import find_gpu

Precision = Literal["fp32", "bf16"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_LONG_ENOUGH_S = 0.02  # a product that takes so long hides what its call costs
_PATIENCE_S = 0.4


class Peak(NamedTuple):
    """Floating-point operations per second of one device, and where the figure is from."""

    flops: float
    source: Literal["known", "measured"]
    name: str


def pick_device(local_rank: int) -> torch.device:
    """Take this rank's GPU, or the CPU where there is none, and make it the one that torch uses when none is named."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if count == 1:  # SLURM's --gpus-per-task shows each rank its own GPU only
        local_rank = 0
    if local_rank >= count:
        raise UserError(
            f"this is rank {local_rank} of its machine, counted from 0, and CUDA shows {count} GPUs here. Expected a "
            f"GPU for each rank: start at most {count} ranks a machine, or look at CUDA_VISIBLE_DEVICES."
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def device_name(device: torch.device) -> str:
    """Call the device by its name; a CPU by what decides how fast it multiplies."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads, {torch.backends.cpu.get_cpu_capability()}"


def peak_flops(device: torch.device, precision: Precision) -> Peak:
    """Look the device up, or measure it with the threads that torch has now; measuring takes half a second."""
    name = device_name(device)
    gpu = find_gpu(name) if device.type == "cuda" else None
    rounds_fp32 = torch.get_float32_matmul_precision() != "highest"
    known = gpu.peak(precision, rounds_fp32) if gpu else None
    if known:
        return Peak(known, "known", name)
    return Peak(_measure(device, _DTYPES[precision]), "measured", name)


def _measure(device: torch.device, dtype: torch.dtype) -> float:
    """Give the best FLOP/s that any product of square matrices reached."""
    best, size = 0.0, 256
    left = right = torch.ones(size, size, dtype=dtype, device=device)
    _time_product(left, right)  # starts threads, loads kernels
    began_s = time.perf_counter()
    while best == 0.0 or time.perf_counter() - began_s < _PATIENCE_S:
        seconds = _time_product(left, right)
        best = max(best, 2 * size**3 / seconds)
        if seconds < _LONG_ENOUGH_S:
            size *= 2
            left = right = torch.ones(size, size, dtype=dtype, device=device)
    return best


def _time_product(left: torch.Tensor, right: torch.Tensor) -> float:
    _wait_for(left.device)
    began_s = time.perf_counter()
    left @ right
    _wait_for(left.device)
    return time.perf_counter() - began_s


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
