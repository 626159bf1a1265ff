"""Runs of earlier versions can be read, evaluated and continued; their folders were written in November 2026."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from trichord.core.run_folder import RunFolder
from trichord.finetune.config import read_config
from trichord.pretrain.engine.run import pretrain
from trichord.pretrain.recipe import load_recipe, to_yaml
from trichord.pretrain.weights.export import read_part

ARCHIVE = Path(__file__).with_name("earlier_run.tar.xz")
RUNS = ("svt", "av", "av_labels", "vt", "head", "captions")


@pytest.fixture
def earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Unpack the folder of earlier runs: shards, a run with a checkpoint, and settings of all kinds of runs."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


@pytest.mark.parametrize("name", RUNS)
def test_settings_of_earlier_runs_keep_their_meaning(earlier: Path, name: str) -> None:
    written = yaml.safe_load(RunFolder(earlier / name).config.read_text())
    config = read_config(written)
    now = yaml.safe_load(to_yaml(config))

    def differences(before: object, after: object) -> list[object]:
        if isinstance(before, dict) and isinstance(after, dict):
            assert before.keys() <= after.keys()
            return [each for key in before for each in differences(before[key], after[key])]
        return [] if before == after else [(before, after)]

    assert differences(written, now) == []


def test_checkpoint_of_an_earlier_run_is_continued(earlier: Path) -> None:
    folder = RunFolder(earlier / "svt")
    (saved,) = folder.checkpoints.glob("step_*")
    weights = load_file(saved / "weights-00000.safetensors")
    tensors, _, _ = read_part(folder.path, "teacher", read_config)
    assert tensors and all(torch.equal(each, weights[f"teacher.{name}"]) for name, each in tensors.items())
    config = load_recipe(folder.config, ["steps=7"]).config
    found = pretrain(config, folder.path)
    assert (found["step"], found["steps"]) == (6, 7)
    steps = [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()]
    assert steps == list(range(7))
    assert {path.name for path in folder.checkpoints.glob("step_*")} >= {"step_00000005", "step_00000007"}
