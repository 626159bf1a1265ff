"""Peak rates of devices: from data sheets by the name of the driver, or measured with matrix products."""

from __future__ import annotations

import time

import pytest
import torch

from trichord.core.errors import UserError
from trichord.pretrain.engine import device as devices
from trichord.pretrain.engine.device import KNOWN, find_gpu, gpu_named, peak_flops, pick_device

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("driver_name", "name", "bf16_tflops"),
    [
        ("NVIDIA H200", "h200", 989.4),
        ("NVIDIA H100 80GB HBM3", "h100", 989.4),
        ("NVIDIA H100 PCIe", "h100-pcie", 756.0),
        ("NVIDIA H100 NVL", "h100-nvl", 835.5),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb", 312.0),
        ("NVIDIA A100-SXM4-80GB", "a100", 312.0),
        ("NVIDIA A100 80GB PCIe", "a100", 312.0),
        ("NVIDIA A10", "a10", 125.0),
        ("NVIDIA A10G", "a10g", 70.0),
        ("NVIDIA L4", "l4", 121.0),
        ("NVIDIA L40S", "l40s", 362.0),
        ("NVIDIA RTX A6000", "a6000", 154.8),
        ("NVIDIA GeForce RTX 4090", "rtx4090", 165.2),
        ("NVIDIA B200", "b200", 2250.0),
        ("Tesla V100-SXM2-32GB", "v100", None),
        ("AMD Instinct MI300X", "mi300x", 1307.4),
    ],
)
def test_driver_name_selects_the_data_sheet(driver_name: str, name: str, bf16_tflops: float | None) -> None:
    gpu = find_gpu(driver_name)
    assert gpu is not None
    assert (gpu.name, gpu.bf16_tflops) == (name, bf16_tflops)
    assert gpu_named(name.upper()) is gpu


def test_data_sheets_count_dense_products_and_names_are_unique() -> None:
    assert len({gpu.name for gpu in KNOWN}) == len(KNOWN)
    for gpu in KNOWN:  # tensor cores process TF32 at half the rate of bfloat16 at most
        if gpu.tf32_tflops and gpu.bf16_tflops:
            assert gpu.fp32_tflops <= gpu.tf32_tflops <= 0.51 * gpu.bf16_tflops


def test_tf32_rate_applies_only_where_torch_allows_it() -> None:
    a100 = gpu_named("a100")
    assert a100.peak("fp32", rounds_fp32=False) == 19.5e12
    assert a100.peak("fp32", rounds_fp32=True) == 156e12
    assert a100.peak("bf16", rounds_fp32=False) == 312e12
    assert gpu_named("t4").peak("bf16", rounds_fp32=True) is None


def test_unknown_device_is_answered_with_the_nearest_name() -> None:
    assert find_gpu("NVIDIA GeForce GTX 1080") is None
    with pytest.raises(UserError, match="Did you mean 'h200'") as error:
        gpu_named("h20")
    assert "mi250x" in str(error.value)


def test_cpu_is_measured_in_about_half_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the CPU time of this thread, which other load does not affect."""
    monkeypatch.setattr(time, "perf_counter", time.thread_time)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        began_s = time.process_time()
        peak = peak_flops(CPU, "fp32")
        assert time.process_time() - began_s < 2
        assert peak.source == "measured"
        assert "1 CPU thread," in peak.name
        left = torch.ones(512, 512)
        seconds = min(_seconds_of_product(left) for _ in range(20))
        reached = 2 * 512**3 / seconds
    finally:
        torch.set_num_threads(before)
    assert 0.25 * reached < peak.flops < 4 * reached  # whose caches and clock rate depend on other load


def _seconds_of_product(left: torch.Tensor) -> float:
    began_s = time.perf_counter()
    left @ left
    return time.perf_counter() - began_s


class FakeCuda:
    """Any number of GPUs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        self.chosen: list[torch.device] = []
        monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(devices.torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(devices.torch.cuda, "set_device", self.chosen.append)


def test_each_rank_of_a_machine_uses_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch, 4)
    assert [pick_device(rank).index for rank in range(4)] == [0, 1, 2, 3]
    assert [device.index for device in cuda.chosen] == [0, 1, 2, 3]
    with pytest.raises(UserError, match=r"local rank 4 on its machine.*CUDA shows 4 GPUs.*at most 4 ranks"):
        pick_device(4)


def test_rank_that_sees_one_gpu_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch, 1)
    assert pick_device(3) == torch.device("cuda", 0)


def test_without_a_gpu_ranks_use_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch, 0)
    assert pick_device(3) == CPU
