"""Which device a rank computes on, and what that device could do in a second at most: what MFU is a share of.

What known GPUs can do in a second and hold, as their makers' data sheets say; read without torch.

Dense products only: the doubled figures for sparse weights are nothing that a training step can reach.

The device that a dry run supposes: one from the table of known GPUs, or the one at hand.
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


_TERA = 1e12


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU. `tf32` is what float32 products reach where torch may round them; None: it has no such units."""

    name: str
    pattern: str  # found in the name that the driver gives it
    fp32_tflops: float
    tf32_tflops: float | None
    bf16_tflops: float | None
    memory_gib: float  # that a process can have

    def peak(self, precision: str, rounds_fp32: bool) -> float | None:
        """Give its FLOP/s, or None where the data sheet has no figure for the precision."""
        if precision == "fp32":
            return (self.tf32_tflops if rounds_fp32 and self.tf32_tflops else self.fp32_tflops) * _TERA
        return None if self.bf16_tflops is None else self.bf16_tflops * _TERA


# The first that fits is taken, so what is special stands before what is general. A10G, as rented out, is not an A10.
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
    Gpu("mi250x", r"MI250X", 47.9, None, 191.5, 63.9),  # one of its two dies, which is what a process sees
    Gpu("mi300x", r"MI300X", 163.4, 653.7, 1307.4, 191.5),
)


def find_gpu(driver_name: str) -> Gpu | None:
    """Find a GPU by what the driver calls it, such as NVIDIA A100-SXM4-80GB."""
    return next((gpu for gpu in KNOWN if re.search(gpu.pattern, driver_name, re.IGNORECASE)), None)


def gpu_named(name: str) -> Gpu:
    """Give the GPU that someone typed, such as h200."""
    for gpu in KNOWN:
        if gpu.name == name.lower():
            return gpu
    raise UserError(unknown_name("--device: no device", name, ["cpu", *(gpu.name for gpu in KNOWN)]))


_GIB = 1 << 30
_GPU_RESERVE_GIB = 1.5  # supposed: CUDA's context, the work space of cuBLAS and NCCL


@dataclass(frozen=True)
class SupposedDevice:
    """What a dry run needs to know of a device."""

    name: str
    is_gpu: bool
    memory_gib: float | None
    reserve_gib: float
    gpu: Gpu | None = None

    def peak(self, precision: Precision) -> Peak:
        """Give the peak: of a known GPU from the table, with float32 products as torch is told to round them."""
        if self.gpu is None:
            return peak_flops(pick_device(0), precision)
        flops = self.gpu.peak(precision, torch.get_float32_matmul_precision() != "highest")
        if flops is None:
            raise UserError(f"--device {self.gpu.name} has no units for {precision}. Set engine.precision=fp32.")
        return Peak(flops, "known", self.gpu.name)


def suppose(name: str | None) -> SupposedDevice:
    """Find a device by name; without one, take this machine's."""
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
