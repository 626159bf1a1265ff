"""A run of an experiment continues only with the settings it was started with."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks.learning.experiment import train
from trichord.core.errors import UserError
from trichord.core.run_folder import RunFolder
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine import checkpoint_files
from trichord.pretrain.engine.checkpoint_files import CheckpointIndex
from trichord.pretrain.recipe import load_recipe

STEPS = 450


def configure(*overrides: str) -> RunConfig:
    return load_recipe("av_synthetic", (f"steps={STEPS}", "data.sources=somewhere", *overrides)).config


def save(run: Path, step: int, config: dict[str, Any]) -> Path:
    """Write a checkpoint without weights."""
    temporary = checkpoint_files.begin(RunFolder(run).checkpoints, step)
    index = CheckpointIndex(
        step=step, adam_updates=step, world_size=1, versions={}, data_digests=[], config=config, files={}
    )
    return checkpoint_files.finish(temporary, index)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the list of runs that the engine was called with."""
    asked: list[Path] = []
    engine = ModuleType("trichord.pretrain.engine.run")
    engine.pretrain = lambda config, run: asked.append(run)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trichord.pretrain.engine.run", engine)
    return asked


def test_interrupted_run_continues(tmp_path: Path, started: list[Path]) -> None:
    train(configure(), tmp_path)
    config = configure().model_dump(mode="json")
    del config["checkpoints"]["keep_last"]  # as saved before this setting existed
    save(tmp_path, 30, config)
    assert train(configure("data.sources=elsewhere"), tmp_path) >= 0  # the engine compares the manifests
    assert started == [tmp_path, tmp_path]


@pytest.mark.parametrize(
    ("override", "reported"),
    [
        ("objective.temperature=0.2", r"objective\.temperature: 0\.1 -> 0\.2"),
        ("steps=500", r"steps: 450 -> 500"),
        ("objective.target=null", r"objective\.target: .* -> None"),
    ],
)
def test_run_with_other_settings_is_refused(tmp_path: Path, started: list[Path], override: str, reported: str) -> None:
    """The engine would report a finished run as done, whatever its loss was."""
    save(tmp_path, STEPS, configure().model_dump(mode="json"))
    with pytest.raises(UserError, match=rf"other settings:\s+{reported}\s+Choose another --out"):
        train(configure(override), tmp_path)
    assert not started


def test_newest_whole_checkpoint_is_compared(tmp_path: Path, started: list[Path]) -> None:
    save(tmp_path, 30, configure("seed=3").model_dump(mode="json"))
    torn = save(tmp_path, 60, configure().model_dump(mode="json"))
    (torn / "checkpoint.json").write_text("{")
    with pytest.raises(UserError, match=r"seed: 3 -> 0"):
        train(configure(), tmp_path)
    save(tmp_path, 90, {**configure().model_dump(mode="json"), "colour": "blue"})
    with pytest.raises(UserError, match=r"of another version: Extra inputs"):
        train(configure(), tmp_path)
    assert not started
