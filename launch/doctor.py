"""`trichord doctor`: report what this machine has for training, what is wrong, and the command that fixes it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

from trichord.core import wheels
from trichord.core.console import show_figures
from trichord.core.errors import SampleError, UserError
from trichord.launch.doctor_cluster import CheckResult, examine_cluster
from trichord.pretrain.engine.allocator import apply, own_cores, thread_plan

_GIB = 1 << 30
_NEEDED = ("torch", "deepspeed", "webdataset", "av", "pydantic", "transformers", "safetensors", "faiss-cpu")
_OPTIONAL = ("torchcodec", "tensorboard", "wandb", "submitit", "mamba-ssm", "causal-conv1d")
_LEAST_FREE_BYTES = 10 * _GIB  # a base model's checkpoint with optimiser takes 2 GiB, and three are kept
_LEAST_SHARED_BYTES = 1 * _GIB  # data workers pass batches through shared memory
_TRIAL_BYTES = 64 << 20


def examine(folder: Path) -> Iterator[CheckResult]:
    """Yield the findings of all checks, part by part."""
    yield from _versions()
    yield from _devices()
    yield from _decoders()
    yield from _communication()
    yield from _allocator_and_threads()
    yield from examine_cluster()
    yield from _disks(folder)


def _versions() -> Iterator[CheckResult]:
    yield CheckResult("versions", "Python", platform.python_version())
    for name in _NEEDED:
        version = _version(name)
        fix = None if version else "make setup, or: pip install -e . in a clone of trichord"
        yield CheckResult("versions", name, version or "missing", fix)
    for name in _OPTIONAL:
        yield CheckResult("versions", name, _version(name) or "not installed; optional")
    yield from _native_wheels()


def _native_wheels() -> Iterator[CheckResult]:
    """Check the two libraries whose native code must be built for the same device as torch."""
    import torch

    for name in ("torchvision", "torchaudio"):
        found = _version(name) or "missing"
        if not wheels.native_code_loads(name):
            found += (
                f", whose native code does not load with torch {torch.__version__}: trichord works without it, but "
                f"`import {name}` fails; make setup TORCH_INDEX=<index of CPU wheels> installs a matching build"
            )
        yield CheckResult("versions", name, found)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> Iterator[CheckResult]:
    import torch

    from trichord.pretrain.engine.device import Precision, device_name, peak_flops

    devices = [torch.device("cuda", number) for number in range(torch.cuda.device_count())] or [torch.device("cpu")]
    torch.set_num_threads(thread_plan(1))
    if devices[0].type == "cpu" and shutil.which("nvidia-smi"):
        yield CheckResult(
            "devices",
            "GPU",
            f"nvidia-smi is installed, but torch {torch.__version__} finds no GPU",
            "make setup TORCH=cuda; if torch is a CUDA build already, install a driver that supports its CUDA version",
        )
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    for device in devices:
        peaks = [(precision, peak_flops(device, precision)) for precision in precisions]
        speeds = ", ".join(f"{precision} {peak.flops / 1e12:.3g} TFLOP/s ({peak.source})" for precision, peak in peaks)
        fp32, bf16 = (peak.flops for _, peak in peaks)
        slower = f"; set engine.precision=fp32, bf16 is {fp32 / bf16:.3g} times slower here" if fp32 > bf16 else ""
        yield CheckResult("devices", f"{device}: {device_name(device)}", speeds + slower)


def _decoders() -> Iterator[CheckResult]:
    import numpy as np

    from trichord.shards.decoding.torchcodec_video import open_with_torchcodec
    from trichord.shards.decoding.track import DecodeLimits
    from trichord.shards.decoding.video import Video, open_video
    from trichord.shards.synthetic.make import encode

    frames_THWC = np.zeros((8, 32, 32, 3), dtype=np.uint8)
    clip = encode(frames_THWC, np.zeros(8000, dtype=np.float32), fps=8, sample_rate=8000)

    def decode(open_clip: Callable[[bytes, DecodeLimits], Video]) -> str:
        video = open_clip(clip, DecodeLimits())
        shape, sound = video.frames(np.arange(8)).shape, video.sound(0.0, 1.0, 16000)
        if shape != frames_THWC.shape or sound is None:
            raise UserError(f"expected 8 frames of 32 x 32 and audio, found frames of shape {shape}, audio: {sound}")
        return "decodes H.264 and AAC"

    try:
        yield CheckResult("decoders", "PyAV", decode(open_video))
    except (SampleError, UserError) as error:
        yield CheckResult("decoders", "PyAV", str(error), "pip install --force-reinstall av")
    try:
        yield CheckResult("decoders", "torchcodec", decode(open_with_torchcodec))
    except (SampleError, UserError) as error:
        yield CheckResult("decoders", "torchcodec", f"{str(error).splitlines()[0]}; optional")


def _communication() -> Iterator[CheckResult]:
    import torch
    import torch.distributed as dist

    yield CheckResult("ranks", "gloo", "available" if dist.is_gloo_available() else "not in this build of torch")
    nccl, gpus = dist.is_nccl_available(), torch.cuda.device_count()
    fix = "make setup TORCH=cuda" if gpus > 1 and not nccl else None
    yield CheckResult("ranks", "NCCL", "available" if nccl else "not in this build of torch", fix)
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError:
        fix = f'echo "127.0.0.1 {name}" | sudo tee -a /etc/hosts, or: export GLOO_SOCKET_IFNAME=lo (one machine only)'
        yield CheckResult(
            "ranks", "own host name", f"{name} does not resolve to an address: ranks that use gloo cannot reach it", fix
        )
    else:
        reach = "from this machine only" if address.startswith("127.") else "from any machine"
        yield CheckResult("ranks", "own host name", f"resolves to an address that ranks can reach {reach}")


def _allocator_and_threads() -> Iterator[CheckResult]:
    before = _copy_bytes_per_s()
    if apply():
        found = f"glibc; copies {before / 1e9:.3g} GB/s by default, {_copy_bytes_per_s() / 1e9:.3g} as set by training"
    else:
        found = f"not glibc, left unchanged; copies {before / 1e9:.3g} GB/s"
    yield CheckResult("CPU", "memory allocator", found)
    cores, threads = own_cores(1), thread_plan(1)
    reason = f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}" if os.environ.get("OMP_NUM_THREADS") else "all cores"
    fix = None if threads >= cores else "unset OMP_NUM_THREADS, unless several ranks share this machine"
    yield CheckResult("CPU", "threads of one rank", f"{threads}, cores: {cores} ({reason})", fix)


def _copy_bytes_per_s() -> float:
    """Measure the speed of copying a large tensor into newly allocated memory, as training does."""
    import torch

    source = torch.zeros(_TRIAL_BYTES, dtype=torch.uint8)
    seconds = []
    for _ in range(5):
        began_s = time.perf_counter()
        source.clone()
        seconds.append(time.perf_counter() - began_s)
    return _TRIAL_BYTES / min(seconds)


def _disks(folder: Path) -> Iterator[CheckResult]:
    free = shutil.disk_usage(folder).free
    fix = "free some space, or set --run to a folder on another disk" if free < _LEAST_FREE_BYTES else None
    yield CheckResult("disk", "free here", f"{free / _GIB:.4g} GiB", fix)
    try:
        speed = f"{_write_bytes_per_s(folder) / 1e6:.3g} MB/s, one file, with fsync"
        yield CheckResult("disk", "writing here", speed)
    except OSError as error:
        yield CheckResult("disk", "writing here", str(error), "change to a folder that you can write to")
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        fix = "give the container more shared memory: docker run --shm-size 8g" if free < _LEAST_SHARED_BYTES else None
        yield CheckResult("disk", "shared memory for workers", f"{free / _GIB:.4g} GiB free in {shared}", fix)


def _write_bytes_per_s(folder: Path) -> float:
    content = os.urandom(_TRIAL_BYTES)
    with tempfile.TemporaryFile(dir=folder) as file:
        began_s = time.perf_counter()
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        return _TRIAL_BYTES / (time.perf_counter() - began_s)


def run_doctor(arguments: Namespace) -> int:
    """Print all findings, and a fix for each that is wrong."""
    found = list(examine(Path.cwd()))
    show_figures(
        "this machine",
        [{"part": each.part, "what": each.what, "found": each.found, "fix": each.fix} for each in found],
        arguments.json,
    )
    wrong = [each for each in found if each.fix]
    for each in wrong:
        print(f"wrong: {each.what}: {each.found}\n  fix: {each.fix}", file=sys.stderr)
    return int(bool(wrong))
