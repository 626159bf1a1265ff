"""The device that a dry run supposes: one from the table of known GPUs, or the one at hand."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from trichord.core.errors import UserError
from trichord.pretrain.engine.device import Peak, Precision, device_name, peak_flops, pick_device
from trichord.pretrain.engine.gpus import Gpu, find_gpu, gpu_named

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
