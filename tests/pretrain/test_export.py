"""Exported weights load elsewhere, and yield the same features."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import TimesformerModel

from tests.pretrain.engine.small_run import small_config, write_shards
from trichord.core.errors import UserError
from trichord.launch import cli
from trichord.pretrain.engine import checkpoint_files
from trichord.pretrain.engine import run as engine_run
from trichord.pretrain.engine.config import InitFrom
from trichord.pretrain.engine.training import build
from trichord.pretrain.weights.export import export, read_part
from trichord.pretrain.weights.load import load_published


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run."""
    top = tmp_path_factory.mktemp("export")
    engine_run.pretrain(small_config(write_shards(top / "shards"), steps=4), top / "run")
    return top / "run"


def test_plain_weights_initialise_another_run_strictly(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "teacher.safetensors"
    assert cli.main(["export", str(run), "--out", str(out)]) == 0
    exported, config = load_file(out), read_part(run)[1]
    assert {name.split(".")[0] for name in exported} == {"backbone", "head"}
    student, _, _ = read_part(run, "student")
    assert any(not torch.equal(student[name], exported[name]) for name in exported)
    fresh = build(config)
    load_published(InitFrom(path=out), fresh)
    for network in (fresh.student, fresh.teacher):  # type: ignore[union-attr]
        own = network.state_dict()  # type: ignore[operator]
        assert own.keys() == exported.keys()
        for name, tensor in exported.items():
            assert torch.equal(own[name], tensor), name


def test_hugging_face_computes_the_same_features(run: Path, tmp_path: Path) -> None:
    assert cli.main(["export", str(run), "--format", "hf", "--out", str(tmp_path / "hf")]) == 0
    theirs = TimesformerModel.from_pretrained(tmp_path / "hf").eval()
    tensors, config, _ = read_part(run)
    ours = config.backbone.build().eval()
    ours.load_state_dict({name.removeprefix("backbone."): t for name, t in tensors.items() if name[0] == "b"})
    frames_BCTHW = torch.randn(2, 3, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected_BLD = theirs(frames_BCTHW.transpose(1, 2)).last_hidden_state
        torch.testing.assert_close(ours(frames_BCTHW).pooled_BD, expected_BLD[:, 0], atol=1e-5, rtol=0)


def test_missing_parts_are_reported(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no part 'teecher'\. Did you mean 'teacher'"):
        read_part(run, "teecher")
    with pytest.raises(UserError, match="holds no complete checkpoint"):
        read_part(tmp_path)


def test_full_disk_is_named_and_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(tensors: object, path: Path, metadata: object = None) -> NoReturn:
        path.write_bytes(b"half")
        raise SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint_files, "save_file", no_room)
    with pytest.raises(UserError, match=r"weights\.safetensors cannot be written: No space left on device"):
        export(run, "safetensors", None, tmp_path / "weights.safetensors")
    assert not list(tmp_path.iterdir())
