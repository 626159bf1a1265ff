"""Mamba's selective scan (Gu and Dao 2023, algorithm 2): exact, fast on a CPU, with low memory use.

For each sample, channel e and state n  h_t = exp(d_t decay_en) h_{t-1} + d_t write_tn x_te  with  d = softplus(steps +
bias); the output is  (sum over n of read_tn h_tn + skip_e x_te) silu(gate_te).

Steps are processed in spans that fit the cache: all decays of a span at once, then for each step one fused in-place
multiply-add over all samples, channels and states, then all sums over states at once. The backward pass recomputes a
span from the state before it, the only one saved. Parallel chunks of the sequence would need fewer steps, but every
exponential twice, and exponentials are most of the work (here exp2 is used, which is twice as fast).
Tensors on a GPU use the fused kernels of `mamba_ssm` and `causal_conv1d` if these are installed, otherwise the same
arithmetic. They are the upstream packages; the fork of VideoMamba's authors is not needed, as a direction is one call.
The kernels were not run, for lack of a GPU: the calls are tested with stand-ins of the same signature.
Legend: B samples, L steps, E channels, N states, S spans.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from trichord.pretrain.layers.scan_spans import ScanInputs, SpanScan, empty_gradients, empty_results

__all__ = ["ScanInputs", "selective_scan"]

_OPERATIONS = 9  # per step, channel and state, as Mamba's authors count them; twice that in the backward pass


def selective_scan(given: ScanInputs) -> Tensor:
    """Return the output of the scan, BLE, in the dtype of the inputs; states have at least single precision."""
    kernel = scan_kernel(given.inputs_BLE.device)
    if kernel is None:
        out_BLE: Tensor = _scan(*given)[0]
        return out_BLE
    inputs, steps, write, read, gate = (
        tensor_BL_.to(given.inputs_BLE.dtype).transpose(1, 2)
        for tensor_BL_ in (given.inputs_BLE, given.steps_BLE, given.write_BLN, given.read_BLN, given.gate_BLE)
    )
    decay, skip, bias = (tensor.float() for tensor in (given.decay_EN, given.skip_E, given.bias_E))
    out_BEL: Tensor = kernel(inputs, steps, decay, write, read, skip, z=gate, delta_bias=bias, delta_softplus=True)
    return out_BEL.transpose(1, 2)


# A custom operator, because torch.compile would otherwise unroll the loop over steps; it also counts its own FLOPs.
@torch.library.custom_op("trichord::selective_scan", mutates_args=())
def _scan(
    inputs_BLE: Tensor,
    steps_BLE: Tensor,
    decay_EN: Tensor,
    write_BLN: Tensor,
    read_BLN: Tensor,
    skip_E: Tensor,
    gate_BLE: Tensor,
    bias_E: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the scan forward; return ScanResults."""
    given = ScanInputs(inputs_BLE, steps_BLE, decay_EN, write_BLN, read_BLN, skip_E, gate_BLE, bias_E)
    results = empty_results(given)
    with torch.autocast(inputs_BLE.device.type, enabled=False):
        SpanScan(given).forward(results)
    return results


@torch.library.custom_op("trichord::selective_scan_backward", mutates_args=())
def _scan_backward(
    gradient_BLE: Tensor, ungated_BLE: Tensor, kept_SBNE: Tensor, given: Sequence[Tensor]
) -> list[Tensor]:
    """Return the gradients with respect to ScanInputs."""
    inputs = ScanInputs(*given)
    found = empty_gradients(inputs)
    with torch.autocast(gradient_BLE.device.type, enabled=False):
        SpanScan(inputs).backward(gradient_BLE, ungated_BLE, kept_SBNE, found)
    return list(found)


@_scan.register_fake
def _scan_fake(*given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return empty_results(ScanInputs(*given))


@_scan_backward.register_fake
def _scan_backward_fake(
    gradient_BLE: Tensor, ungated_BLE: Tensor, kept_SBNE: Tensor, given: Sequence[Tensor]
) -> list[Tensor]:
    return list(empty_gradients(ScanInputs(*given)))


def _save_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)  # saved outputs have no gradient, and zeros for it would take memory
    _, ungated_BLE, kept_SBNE = output
    ctx.save_for_backward(ungated_BLE, kept_SBNE, *inputs)


def _differentiate(ctx: Any, gradient_BLE: Tensor | None, *unused: None) -> tuple[Tensor | None, ...]:
    if gradient_BLE is None:
        return (None,) * len(ScanInputs._fields)
    ungated_BLE, kept_SBNE, *given = ctx.saved_tensors
    return tuple(_scan_backward(gradient_BLE, ungated_BLE, kept_SBNE, given))


_scan.register_autograd(_differentiate, setup_context=_save_context)


def _operations(inputs_BLE: Sequence[int], decay_EN: Sequence[int]) -> int:
    batch, length, channels = inputs_BLE
    return _OPERATIONS * batch * length * channels * decay_EN[1]


@register_flop_formula(torch.ops.trichord.selective_scan)
def _scan_operations(*given: Sequence[int], out_shape: object = None) -> int:
    return _operations(given[0], given[2])


@register_flop_formula(torch.ops.trichord.selective_scan_backward)
def _scan_backward_operations(
    gradient: object, ungated: object, kept: object, given: Sequence[Sequence[int]], out_shape: object = None
) -> int:
    return 2 * _operations(given[0], given[2])


def scan_kernel(device: torch.device) -> Callable[..., Any] | None:
    """Return `selective_scan_fn(inputs_BEL, steps_BEL, decay_EN, write_BNL, read_BNL, skip_E, z=, delta_bias=, …)`."""
    return _found("mamba_ssm.ops.selective_scan_interface", "selective_scan_fn") if device.type == "cuda" else None


def convolution_kernel(device: torch.device) -> Callable[..., Any] | None:
    """Return `causal_conv1d_fn(inputs_BEL, weight_EK, bias_E, activation=)` if available."""
    return _found("causal_conv1d", "causal_conv1d_fn") if device.type == "cuda" else None


@cache
def _found(module: str, name: str) -> Callable[..., Any] | None:
    try:
        kernel: Callable[..., Any] | None = getattr(importlib.import_module(module), name)
    except ImportError:  # not installed, built for another torch, or without CUDA
        return None
    return kernel
