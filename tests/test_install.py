"""The installer never installs a CUDA build on a machine without a GPU, and does nothing twice."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def installer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("installer", ROOT / ".ci" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ENVIRONMENT", tmp_path / "env")
    monkeypatch.setattr(module, "make_environment", lambda: Path(sys.executable))
    (tmp_path / "env").mkdir()
    return module


@pytest.fixture
def pip_calls(installer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Replace pip: it plans the packages of a CUDA build, unless an index is given."""
    calls: list[tuple[str, ...]] = []

    def pip(python: Path, *arguments: str) -> None:
        calls.append(arguments)
        if "--report" in arguments:
            names = ["torch", "numpy"] if "--extra-index-url" in arguments else ["torch", "nvidia-cublas", "triton"]
            plan = {"install": [{"metadata": {"name": name}} for name in names]}
            Path(arguments[arguments.index("--report") + 1]).write_text(json.dumps(plan))

    monkeypatch.setattr(installer, "pip", pip)
    monkeypatch.setattr(installer, "nvidia_device_present", lambda: False)
    return calls


def run(installer: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["install.py", *arguments])
    return int(installer.main())


def test_plan_with_cuda_packages_is_refused_before_installing(
    installer: ModuleType,
    pip_calls: list[tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(installer, monkeypatch) == 2
    message = capsys.readouterr().err
    assert "nvidia-cublas, triton" in message
    assert "TORCH_INDEX" in message
    assert "TORCH=cuda" in message
    assert len(pip_calls) == 1
    assert "--dry-run" in pip_calls[0]


def test_index_of_cpu_wheels_is_used_for_both_steps(
    installer: ModuleType, pip_calls: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(installer, monkeypatch, "--torch-index", "wheels") == 0
    assert [call[call.index("--extra-index-url") + 1] for call in pip_calls] == ["wheels", "wheels"]
    for call in pip_calls:  # torchvision alone would install the torch that it was built for
        assert {text.partition("==")[0] for text in call} >= {"torch", "torchvision", "torchaudio"}


@pytest.mark.parametrize(("choice", "device", "steps"), [("cuda", False, 1), ("auto", True, 1), ("cpu", True, 2)])
def test_precedence_of_the_sources_of_the_index(
    installer: ModuleType,
    pip_calls: list[tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
    choice: str,
    device: bool,
    steps: int,
) -> None:
    monkeypatch.setattr(installer, "nvidia_device_present", lambda: device)
    status = run(installer, monkeypatch, "--torch", choice)
    assert (status, len(pip_calls)) == ((2, 1) if choice == "cpu" else (0, steps))


def test_own_requirements_replace_the_tested_ones(
    installer: ModuleType, pip_calls: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installer, "nvidia_device_present", lambda: True)
    assert run(installer, monkeypatch, "--torch", "torch==9.9 torchvision==8.8") == 0
    assert {"torch==9.9", "torchvision==8.8"} <= set(pip_calls[0])
    assert not any(text.startswith("torchaudio") for text in pip_calls[0])


def test_second_run_does_nothing_until_a_setting_changes(
    installer: ModuleType, pip_calls: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def steps(*arguments: str) -> int:
        pip_calls.clear()
        assert run(installer, monkeypatch, *arguments) == 0
        return len(pip_calls)

    assert steps("--torch", "cuda") == 1
    assert steps("--torch", "cuda") == 0
    assert steps("--torch", "cuda", "--extras", "dev,bench") == 1
    assert steps("--torch", "cuda") == 0  # the existing installation includes more than requested
    assert steps("--torch", "cuda", "--torch-index", "wheels") == 1


def test_failed_installation_leaves_no_stamp(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(python: Path, *arguments: str) -> None:
        raise subprocess.CalledProcessError(1, ["pip"])

    monkeypatch.setattr(installer, "pip", failing)
    assert run(installer, monkeypatch, "--torch", "cuda") == 1
    assert not (installer.ENVIRONMENT / ".installed").exists()
    assert "pip ended with status 1" in capsys.readouterr().err


def test_torch_is_not_constrained(installer: ModuleType) -> None:
    pins = [line.partition("==")[0] for line in installer.CONSTRAINTS.read_text().splitlines() if line[:1] != "#"]
    assert {"torch", "torchvision", "torchaudio"}.isdisjoint(pins)
    assert not [name for name in pins if name.startswith(installer.CUDA_ONLY_PACKAGES)]


def test_ci_runs_both_targets() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = script.read_text().splitlines()
    assert lines[-2:] == ["make check", "make test"]
