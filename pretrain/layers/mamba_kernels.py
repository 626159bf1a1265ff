"""Finds the fused kernels of `mamba_ssm` and `causal_conv1d`, which only tensors on a GPU can use.

They are the upstream packages (the fork that VideoMamba's authors ship is not needed: a direction is one call). No GPU
was at hand: the calls are tested with stand-ins of the same signature, the kernels themselves never ran here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import torch


def scan_kernel(device: torch.device) -> Callable[..., Any] | None:
    """Give `selective_scan_fn(inputs_BEL, steps_BEL, decay_EN, write_BNL, read_BNL, skip_E, z=, delta_bias=, …)`."""
    return _found("mamba_ssm.ops.selective_scan_interface", "selective_scan_fn") if device.type == "cuda" else None


def convolution_kernel(device: torch.device) -> Callable[..., Any] | None:
    """Give `causal_conv1d_fn(inputs_BEL, weight_EK, bias_E, activation=)`."""
    return _found("causal_conv1d", "causal_conv1d_fn") if device.type == "cuda" else None


@cache
def _found(module: str, name: str) -> Callable[..., Any] | None:
    try:
        kernel: Callable[..., Any] | None = getattr(importlib.import_module(module), name)
    except ImportError:  # not installed, or built for another torch or without its CUDA part
        return None
    return kernel
