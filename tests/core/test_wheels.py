"""torchvision and torchaudio can be imported with a CPU build of torch, each in a fresh interpreter."""

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


def test_importing_trichord_imports_no_torch_and_changes_no_import() -> None:
    script = (
        "import sys; before = sys.meta_path[:]; import trichord; print('torch' in sys.modules, sys.meta_path == before)"
    )
    assert python(script).split() == ["False", "True"]


def test_both_libraries_work_after_make_importable() -> None:
    script = """
from trichord.core.wheels import make_importable
make_importable()
import torch, torchaudio, torchvision
from torchvision.transforms import v2
from torchaudio.compliance.kaldi import fbank
pixels_CHW = torch.zeros(3, 32, 48, dtype=torch.uint8)
print(tuple(v2.functional.resize(pixels_CHW, [16, 24]).shape))
print(tuple(fbank(torch.ones(1, 16000), num_mel_bins=128).shape))
"""
    assert python(script).strip() == "(3, 16, 24)\n(98, 128)"


@pytest.mark.parametrize("build", ["cuda", "hip"])
def test_gpu_build_is_left_unchanged(build: str) -> None:
    """With a GPU build of torch nothing is changed, so that a broken installation remains visible."""
    script = f"""
import sys, torch
from trichord.core import wheels
torch.version.{build} = "13.0"
wheels.make_importable()
print(wheels._declarations, "torchaudio._extension" in sys.modules)
"""
    assert python(script).split() == ["[]", "False"]


def test_native_code_that_loads_is_kept_unchanged(tmp_path: Path) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from trichord.core.wheels import native_code_loads
print(native_code_loads("pure"), native_code_loads("broken"), native_code_loads("absent_package"))
"""
    for name in ("pure", "broken"):
        (tmp_path / name / "lib").mkdir(parents=True)
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "broken" / "lib" / "_torchaudio.abi3.so").write_bytes(b"not a library")
    assert python(script).split() == ["True", "False", "True"]
