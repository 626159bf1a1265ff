"""The selective scan equals a loop over time, forward and backward, stores little, and is one operator to torch."""

from __future__ import annotations

import sys
from math import e
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.pretrain.layers.naive_scan import naive_scan
from trichord.pretrain.engine.rehearsal import count_flops
from trichord.pretrain.layers import scan_spans
from trichord.pretrain.layers import selective_scan as mamba_kernels
from trichord.pretrain.layers import selective_scan as scan_module
from trichord.pretrain.layers.selective_scan import ScanInputs, selective_scan


def inputs(batch: int = 2, length: int = 37, channels: int = 6, states: int = 4, **changes: Any) -> ScanInputs:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    rows = (batch, length)
    decay_EN = -random(channels, states).exp()
    given = ScanInputs(
        random(*rows, channels),
        random(*rows, channels),
        decay_EN,
        random(*rows, states),
        random(*rows, states),
        random(channels),
        random(*rows, channels),
        random(channels),
    )._replace(**changes)
    return ScanInputs(*(tensor.requires_grad_() for tensor in given))


def results(scan: Any, given: ScanInputs) -> list[Tensor]:
    """Return the output and the gradients with respect to all inputs."""
    out_BLE = scan(given)
    direction_BLE = torch.randn(out_BLE.shape, generator=torch.Generator().manual_seed(1)).to(out_BLE.dtype)
    return [out_BLE, *torch.autograd.grad(out_BLE, given, direction_BLE)]


def assert_equal_to_the_loop(given: ScanInputs, tolerance: float = 1e-5) -> None:
    for found, expected in zip(results(selective_scan, given), results(naive_scan, given), strict=True):
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(found.double() / scale, expected.double() / scale, atol=tolerance, rtol=0)


@pytest.mark.parametrize("length", [1, 2, 16, 17, 37, 64])
@pytest.mark.parametrize("batch", [1, 3])
def test_it_equals_the_loop_over_time(monkeypatch: pytest.MonkeyPatch, batch: int, length: int) -> None:
    monkeypatch.setattr(
        scan_spans, "_SPAN_BYTES", 0
    )  # spans of the shortest length, 16, so that most sequences end within one
    assert_equal_to_the_loop(inputs(batch, length))


def test_one_span_and_many_equal_the_loop() -> None:
    given = inputs(batch=2, length=90, channels=256, states=16)
    assert scan_spans.span_length(given) == 64
    assert_equal_to_the_loop(given)


def test_double_precision_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_spans, "_SPAN_BYTES", 0)
    given = ScanInputs(*(tensor.detach().double().requires_grad_() for tensor in inputs(length=35)))
    assert_equal_to_the_loop(given, tolerance=1e-13)


def test_underflowing_decays_are_zero_without_harm() -> None:
    """Implementations that divide by products of decays overflow here."""
    given = inputs(steps_BLE=torch.full((2, 37, 6), 50.0), decay_EN=-torch.logspace(-6, 4, 24).view(6, 4))
    assert_equal_to_the_loop(given)
    assert all(tensor.isfinite().all() for tensor in results(selective_scan, given))


def test_output_depends_on_the_past_only() -> None:
    given = inputs(batch=1)
    changed = given.inputs_BLE.detach().clone()
    changed[:, 20:] += 1
    before, after = selective_scan(given), selective_scan(given._replace(inputs_BLE=changed))
    assert torch.equal(before[:, :20], after[:, :20])
    assert (before[:, 20:] != after[:, 20:]).any(dim=2).all()


def test_half_precision_keeps_single_precision_states_within_autocast() -> None:
    """Many small additions to a large state: a sum in bfloat16 would stop growing at 256."""
    length, ones = 2000, torch.ones(1, 2000, 1)
    given = ScanInputs(
        ones, ones * 0, torch.tensor([[-1e-9]]), ones, ones, torch.zeros(1), ones * 20, torch.tensor([e - 1]).log()
    )
    halves = ScanInputs(*(t.bfloat16() if t.ndim == 3 else t for t in given))
    with torch.autocast("cpu", torch.bfloat16):
        out_BLE = selective_scan(halves)
    assert out_BLE.dtype == torch.bfloat16
    assert out_BLE[0, -1, 0].item() == pytest.approx(20 * length, rel=1e-2)
    moving = ScanInputs(*(tensor.requires_grad_() for tensor in halves))
    gradients = torch.autograd.grad(selective_scan(moving).sum(), moving)
    assert [tensor.dtype for tensor in gradients] == [tensor.dtype for tensor in halves]


def test_memory_is_a_fraction_of_that_of_all_states() -> None:
    given = inputs(batch=2, length=640, channels=64, states=16)
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    sizes = {}
    for scan in (selective_scan, naive_scan):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            out = scan(given)
        sizes[scan] = sum(kept.values())
        del out
    states_bytes = 2 * 640 * 64 * 16 * 4
    assert sizes[naive_scan] > 2 * states_bytes
    assert sizes[selective_scan] < states_bytes / 2  # most of it the inputs


def test_it_is_one_operator_with_counted_operations() -> None:
    given = inputs()
    work = 9 * 2 * 37 * 6 * 4
    assert count_flops(lambda: selective_scan(given)) == work
    assert count_flops(lambda: selective_scan(given).sum().backward()) == 3 * work

    def scanned(*given: Tensor) -> Tensor:
        return selective_scan(ScanInputs(*given))

    compiled = torch.compile(scanned, backend="eager", fullgraph=True)
    assert torch.equal(compiled(*given), selective_scan(given))
    torch.library.opcheck(torch.ops.trichord.selective_scan.default, tuple(given))


def test_gpu_kernel_is_called_with_its_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """A substitute with the published signature and layouts, because the kernel itself needs a GPU."""

    def selective_scan_fn(  # type: ignore[no-untyped-def]
        u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
    ):
        assert delta_softplus and not return_last_state and u.dtype == delta.dtype == B.dtype == C.dtype == z.dtype
        assert A.dtype == D.dtype == delta_bias.dtype == torch.float32
        rows = [tensor.transpose(1, 2) for tensor in (u, delta, B, C, z)]
        given = ScanInputs(rows[0], rows[1], A, rows[2], rows[3], D, rows[4], delta_bias)
        return naive_scan(given).transpose(1, 2).to(u.dtype)

    package = ModuleType("mamba_ssm.ops.selective_scan_interface")
    vars(package).update(selective_scan_fn=selective_scan_fn)
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, package.__name__, package)
    mamba_kernels._found.cache_clear()
    assert mamba_kernels.scan_kernel(torch.device("cpu")) is None
    gpu = SimpleNamespace(type="cuda")
    kernel = mamba_kernels.scan_kernel
    monkeypatch.setattr(scan_module, "scan_kernel", lambda device: kernel(gpu))
    given = inputs()
    on_gpu = selective_scan(given)
    monkeypatch.undo()
    mamba_kernels._found.cache_clear()
    torch.testing.assert_close(on_gpu, selective_scan(given), atol=1e-5, rtol=0)


def test_gpu_without_the_packages_uses_the_same_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mamba_ssm.ops.selective_scan_interface", "causal_conv1d"):
        monkeypatch.setitem(sys.modules, name, None)
    mamba_kernels._found.cache_clear()
    assert mamba_kernels.scan_kernel(torch.device("cuda")) is None
    assert mamba_kernels.convolution_kernel(torch.device("cuda")) is None
    mamba_kernels._found.cache_clear()
