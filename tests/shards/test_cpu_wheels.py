"""torchvision and torchaudio can be imported beside a CPU build of torch, each in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def python(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_costs_no_import_of_torch() -> None:
    assert python("import shards, sys; print('torch' in sys.modules)").strip() == "False"


def test_the_finder_stands_once_in_line() -> None:
    script = """
import sys, shards
from shards import cpu_wheels
before = len(sys.meta_path)
cpu_wheels.install()
print(len(sys.meta_path) - before)
"""
    assert python(script).strip() == "0"


def test_both_libraries_work_after_it() -> None:
    script = """
import shards
import torch, torchaudio, torchvision
from torchvision.transforms import v2
from torchaudio.compliance.kaldi import fbank
pixels_CHW = torch.zeros(3, 32, 48, dtype=torch.uint8)
print(tuple(v2.functional.resize(pixels_CHW, [16, 24]).shape))
print(tuple(fbank(torch.ones(1, 16000), num_mel_bins=128).shape))
"""
    assert python(script).strip() == "(3, 16, 24)\n(98, 128)"


def test_a_cuda_build_is_left_alone() -> None:
    """Where torch says it is for CUDA, neither gap is filled, so a broken installation shows as what it is."""
    script = """
import torch
torch.version.cuda = "13.0"
from shards.cpu_wheels import _NativeCodeFinder, _declarations
finder = _NativeCodeFinder()
print(finder.find_spec("torchvision._meta_registrations", None))
print(finder.find_spec("torchaudio._extension", ["/nowhere"]))
print(_declarations)
"""
    assert python(script).split() == ["None", "None", "[]"]


@pytest.mark.parametrize("name", ["torchvision.ops", "torchaudio.functional", "json"])
def test_other_modules_pass_by(name: str) -> None:
    from shards.cpu_wheels import _NativeCodeFinder

    assert _NativeCodeFinder().find_spec(name, None) is None


def test_native_code_that_loads_is_kept(tmp_path: Path) -> None:
    from shards.cpu_wheels import _torchaudio_loads

    assert _torchaudio_loads([str(tmp_path)])  # a build without native code has nothing to fail
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "_torchaudio.abi3.so").write_bytes(b"not a library")
    assert not _torchaudio_loads([str(tmp_path)])
