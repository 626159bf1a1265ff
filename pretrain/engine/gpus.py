"""What known GPUs can do in a second and hold, as their makers' data sheets say; read without torch.

Dense products only: the doubled figures for sparse weights are nothing that a training step can reach.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from trichord.core.command import unknown_name
from trichord.core.errors import UserError

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
