"""The device of a rank, its peak throughput (the reference of MFU), and the device that a dry run assumes.

Peak throughput and memory of known GPUs are from their makers' data sheets. They are for dense products: a training
step cannot reach the doubled figures for sparse weights. A dry run assumes a GPU of that table or the local device.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from trichord.core.command import unknown_name
from trichord.core.errors import UserError

Precision = Literal["fp32", "bf16"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_LONG_ENOUGH_S = 0.02  # a product of this duration hides the overhead of its call
_MEASURE_S = 0.4


class Peak(NamedTuple):
    """Peak floating-point operations per second of one device, and the source of the figure."""

    flops: float
    source: Literal["known", "measured"]
    name: str


def pick_device(local_rank: int) -> torch.device:
    """Return this rank's GPU, or the CPU if there is none, and make the GPU torch's current device."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if count == 1:  # SLURM's --gpus-per-task shows each rank only its own GPU
        local_rank = 0
    if local_rank >= count:
        raise UserError(
            f"this is local rank {local_rank} on its machine, counted from 0, but CUDA shows {count} GPUs. Expected a "
            f"GPU for each rank. Start at most {count} ranks on each machine, or check CUDA_VISIBLE_DEVICES."
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def device_name(device: torch.device) -> str:
    """Return the device's name; for a CPU, the threads and instruction set that determine its speed."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{threads} CPU thread{'s' if threads != 1 else ''}, {torch.backends.cpu.get_cpu_capability()}"


def peak_flops(device: torch.device, precision: Precision) -> Peak:
    """Return the device's peak from the table, or measure it with torch's current threads in half a second."""
    name = device_name(device)
    gpu = find_gpu(name) if device.type == "cuda" else None
    rounds_fp32 = torch.get_float32_matmul_precision() != "highest"
    known = gpu.peak(precision, rounds_fp32) if gpu else None
    if known:
        return Peak(known, "known", name)
    return Peak(_measure(device, _DTYPES[precision]), "measured", name)


def _measure(device: torch.device, dtype: torch.dtype) -> float:
    """Return the highest FLOP/s over products of square matrices of growing size."""
    best, size = 0.0, 256
    left = right = torch.ones(size, size, dtype=dtype, device=device)
    _time_product(left, right)  # starts threads, loads kernels
    began_s = time.perf_counter()
    while best == 0.0 or time.perf_counter() - began_s < _MEASURE_S:
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


_TERA = 1e12


@dataclass(frozen=True)
class Gpu:
    """A GPU model. `tf32_tflops` is for float32 products that torch may round; None means no such units."""

    name: str
    pattern: str  # regular expression that finds it in the driver's name
    fp32_tflops: float
    tf32_tflops: float | None
    bf16_tflops: float | None
    memory_gib: float  # available to a process

    def peak(self, precision: str, rounds_fp32: bool) -> float | None:
        """Return its peak FLOP/s, or None if the data sheet has no figure for the precision."""
        if precision == "fp32":
            return (self.tf32_tflops if rounds_fp32 and self.tf32_tflops else self.fp32_tflops) * _TERA
        return None if self.bf16_tflops is None else self.bf16_tflops * _TERA


# The first match is used, so specific entries come before general ones. The A10G of cloud providers is not an A10.
KNOWN = (
    Gpu("v100", r"V100", 15.7, None, None, 31.7),
    Gpu("t4", r"\bT4\b", 8.1, None, None, 14.6),
    Gpu("a10g", r"\bA10G\b", 31.5, 35.0, 70.0, 22.0),
    Gpu("a10", r"\bA10\b", 31.2, 62.5, 125.0, 22.0),
    Gpu("a30", r"\bA30\b", 10.3, 82.0, 165.0, 23.5),
    Gpu("a40", r"\bA40\b", 37.4, 74.8, 149.7, 44.3),
    Gpu("a6000", r"RTX A6000", 38.7, 77.4, 154.8, 47.4),
    Gpu("a100-40gb", r"A100.*40GB", 19.5, 156.0, 312.0, 39.4),
    Gpu("a100", r"A100", 19.5, 156.0, 312.0, 79.1),
    Gpu("l40s", r"\bL40S\b", 91.6, 183.0, 362.0, 44.4),
    Gpu("l4", r"\bL4\b", 30.3, 60.0, 121.0, 22.0),
    Gpu("h100-pcie", r"H100 PCIe", 51.2, 378.0, 756.0, 79.1),
    Gpu("h100-nvl", r"H100 NVL", 60.0, 417.5, 835.5, 93.1),
    Gpu("h100", r"H100|GH200", 66.9, 494.7, 989.4, 79.1),
    Gpu("h200", r"H200", 66.9, 494.7, 989.4, 139.8),
    Gpu("b200", r"\bB200\b", 75.0, 1125.0, 2250.0, 178.0),
    Gpu("rtx3090", r"RTX 3090", 35.6, 35.6, 71.0, 23.6),
    Gpu("rtx4090", r"RTX 4090", 82.6, 82.6, 165.2, 23.6),
    Gpu("mi250x", r"MI250X", 47.9, None, 191.5, 63.9),  # one of its two dies, as a process sees it
    Gpu("mi300x", r"MI300X", 163.4, 653.7, 1307.4, 191.5),
)


def find_gpu(driver_name: str) -> Gpu | None:
    """Return the GPU for a driver's name such as NVIDIA A100-SXM4-80GB, or None if it is unknown."""
    return next((gpu for gpu in KNOWN if re.search(gpu.pattern, driver_name, re.IGNORECASE)), None)


def gpu_named(name: str) -> Gpu:
    """Return the GPU with this name, such as h200."""
    for gpu in KNOWN:
        if gpu.name == name.lower():
            return gpu
    raise UserError(unknown_name("--device: no device", name, ["cpu", *(gpu.name for gpu in KNOWN)]))


_GIB = 1 << 30
_GPU_RESERVE_GIB = 1.5  # assumed: CUDA's context, the workspaces of cuBLAS and NCCL


@dataclass(frozen=True)
class SupposedDevice:
    """The properties of a device that a dry run needs."""

    name: str
    is_gpu: bool
    memory_gib: float | None
    reserve_gib: float
    gpu: Gpu | None = None

    def peak(self, precision: Precision) -> Peak:
        """Return the peak; for a known GPU from the table, with torch's current rounding of float32 products."""
        if self.gpu is None:
            return peak_flops(pick_device(0), precision)
        flops = self.gpu.peak(precision, torch.get_float32_matmul_precision() != "highest")
        if flops is None:
            raise UserError(f"--device {self.gpu.name} does not support {precision}. Set engine.precision=fp32.")
        return Peak(flops, "known", self.gpu.name)


def suppose(name: str | None) -> SupposedDevice:
    """Return a device by name, or this machine's device if `name` is None."""
    if name is not None and name.lower() != "cpu":
        gpu = gpu_named(name)
        return SupposedDevice(gpu.name, True, gpu.memory_gib, _GPU_RESERVE_GIB, gpu)
    device = pick_device(0) if name is None else torch.device("cpu")
    own_name = device_name(device)
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory / _GIB
        return SupposedDevice(own_name, True, total, _GPU_RESERVE_GIB, find_gpu(own_name))
    return SupposedDevice(own_name, False, _machine_gib(), 0.0)


def _machine_gib() -> float | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _GIB
