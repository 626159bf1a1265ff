"""A bench's run goes on only as what it was begun as."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks.learning.training import train
from trichord.core.errors import UserError
from trichord.core.run_folder import RunFolder
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine import checkpoint_files
from trichord.pretrain.engine.checkpoint_files import CheckpointIndex
from trichord.pretrain.recipe import load_recipe

STEPS = 450


def configure(*overrides: str) -> RunConfig:
    return load_recipe("av_world", (f"steps={STEPS}", "data.sources=somewhere", *overrides)).config


def save(run: Path, step: int, config: dict[str, Any]) -> Path:
    """Leave a checkpoint without weights."""
    temporary = checkpoint_files.begin(RunFolder(run).checkpoints, step)
    index = CheckpointIndex(
        step=step, adam_updates=step, world_size=1, versions={}, data_digests=[], config=config, files={}
    )
    return checkpoint_files.finish(temporary, index)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The runs that the engine was asked for."""
    asked: list[Path] = []
    engine = ModuleType("trichord.pretrain.engine.run")
    engine.pretrain = lambda config, run: asked.append(run)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trichord.pretrain.engine.run", engine)
    return asked


def test_a_run_that_was_broken_off_goes_on(tmp_path: Path, begun: list[Path]) -> None:
    train(configure(), tmp_path)
    config = configure().model_dump(mode="json")
    del config["checkpoints"]["keep_last"]  # as before there was this setting
    save(tmp_path, 30, config)
    assert train(configure("data.sources=elsewhere"), tmp_path) >= 0  # the engine compares the manifests
    assert begun == [tmp_path, tmp_path]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("objective.temperature=0.2", r"objective\.temperature: 0\.1 -> 0\.2"),
        ("steps=500", r"steps: 450 -> 500"),
        ("objective.target=null", r"objective\.target: .* -> None"),
    ],
)
def test_weights_of_other_settings_are_not_taken_for_these(
    tmp_path: Path, begun: list[Path], override: str, told: str
) -> None:
    """The engine would call a finished run done, whatever its loss was made of."""
    save(tmp_path, STEPS, configure().model_dump(mode="json"))
    with pytest.raises(UserError, match=rf"other settings:\s+{told}\s+Give another --out"):
        train(configure(override), tmp_path)
    assert not begun


def test_the_newest_whole_checkpoint_counts(tmp_path: Path, begun: list[Path]) -> None:
    save(tmp_path, 30, configure("seed=3").model_dump(mode="json"))
    torn = save(tmp_path, 60, configure().model_dump(mode="json"))
    (torn / "checkpoint.json").write_text("{")
    with pytest.raises(UserError, match=r"seed: 3 -> 0"):
        train(configure(), tmp_path)
    save(tmp_path, 90, {**configure().model_dump(mode="json"), "colour": "blue"})
    with pytest.raises(UserError, match=r"of another version: Extra inputs"):
        train(configure(), tmp_path)
    assert not begun
