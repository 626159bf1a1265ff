"""Cached features: training a head on them equals training on the videos, including bad and silent ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save

from tests.finetune.small_head import BOTH, CLASSES, small_config, write_shards
from tests.finetune.tasks.captioning import small_captions
from trichord.core.errors import SampleError, UserError
from trichord.finetune.config import FinetuneConfig
from trichord.finetune.evaluation.evaluate import evaluate
from trichord.finetune.features import MEMBER, read_features
from trichord.finetune.features.computing import fill
from trichord.pretrain.engine import run as engine_run
from trichord.pretrain.engine.distributed import join_world
from trichord.pretrain.engine.rehearsal import training_flops
from trichord.shards.reading.manifest import Manifest
from trichord.shards.record import RawSample

STILL: dict[str, Any] = {
    **BOTH,
    "objective__clips": {"kind": "segments", "frames": 2, "placement": "centre"},
    "objective__frozen": True,
    "objective__head": {"pool": "weighted", "dropout": 0.3},
    "data__max_bad_fraction": 0.5,
    "steps": 3,
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write clips, one of which cannot be decoded."""
    folder = write_shards(tmp_path_factory.mktemp("set") / "shards", 12)
    tar = bytearray((folder / "00001.tar").read_bytes())
    at = tar.index(b"ftyp")
    tar[at - 4 : at + 400] = bytes(404)
    (folder / "00001.tar").write_bytes(tar)
    return folder


def weights_after(config: FinetuneConfig, run: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    from trichord.pretrain.engine import checkpoint_files

    engine_run.pretrain(config, run)
    path = run / "checkpoints" / checkpoint_files.name_of(3)
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    return losses, dict(checkpoint_files.read_tensors(path, sorted(checkpoint_files.read_index(path).files)))


def test_head_on_cached_features_equals_the_head_on_videos(shards: Path, tmp_path: Path, quick_starts: None) -> None:
    videos = small_config(shards, **STILL)
    kept = small_config(shards, **STILL, features=str(tmp_path / "features"))
    fill(kept, join_world())
    written = Manifest.load(tmp_path / "features/0")
    assert [each.samples for each in written.shards] == [4, 4, 4] and written.classes == videos.objective.classes  # type: ignore[union-attr]
    stamps = [path.stat().st_mtime_ns for path in sorted((tmp_path / "features/0").iterdir())]
    (tmp_path / "features/0/00002.tar").unlink()
    (tmp_path / "features/0/manifest.json").unlink()
    fill(kept, join_world())  # the missing ones, and no others
    again = [path.stat().st_mtime_ns for path in sorted((tmp_path / "features/0").iterdir())]
    assert again[:2] == stamps[:2] and Manifest.load(tmp_path / "features/0") == written
    expected, found = weights_after(videos, tmp_path / "videos"), weights_after(kept, tmp_path / "kept")
    assert found[0] == pytest.approx(expected[0], abs=1e-6)
    assert found[1].keys() == expected[1].keys()
    for name, tensor in expected[1].items():
        torch.testing.assert_close(found[1][name], tensor, atol=1e-5, rtol=1e-4, msg=name)
    results = [evaluate(tmp_path / name, [str(shards)], [], None) for name in ("videos", "kept")]
    assert results[0]["metrics"] == pytest.approx(results[1]["metrics"]) and results[1]["bad"] == 1


def test_captions_from_cached_features_equal_those_from_videos(
    tmp_path: Path, quick_starts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With one caption each: of several, others would be drawn, because pixels draw no random numbers before.
    monkeypatch.setattr(small_captions, "captions_of", lambda number: [f"a {CLASSES[number % 4]} cloth"])
    shards = small_captions.write_shards(tmp_path / "shards", 8)
    clips = {"kind": "window", "frames": 2, "clip_seconds": 0.1, "placement": "uniform", "clips": 2}
    still = {"objective__clips": clips, "objective__test_clips": clips, "objective__frozen": True, "steps": 3}
    videos = small_captions.small_config(shards, **still)
    kept = small_captions.small_config(shards, **still, features=str(tmp_path / "features"))
    fill(kept, join_world())
    expected, found = weights_after(videos, tmp_path / "videos"), weights_after(kept, tmp_path / "kept")
    assert found[0] == pytest.approx(expected[0], abs=1e-5)
    for name, tensor in expected[1].items():
        torch.testing.assert_close(found[1][name], tensor, atol=1e-4, rtol=1e-3, msg=name)


def test_only_operations_of_the_head_are_counted(shards: Path, tmp_path: Path) -> None:
    videos, kept = (training_flops(small_config(shards, **STILL, features=each), 4) for each in (None, str(tmp_path)))
    assert 0 < kept < videos / 10


def test_features_of_other_settings_are_refused(shards: Path, tmp_path: Path) -> None:
    only_sight = {**STILL, "objective__inputs": ["video"], "audio_backbone": None, "objective__sound": None}
    kept = small_config(shards, **only_sight, features=str(tmp_path / "features"))
    fill(kept, join_world())
    other = kept.model_copy(update={"seed": 6})
    with pytest.raises(UserError, match=r"holds features of other seed: .*features.json lists them"):
        fill(other, join_world())


def test_trained_backbone_of_captions_has_no_cached_features() -> None:
    clips = {"kind": "segments", "frames": 2, "placement": "centre"}
    with pytest.raises(ValidationError, match=r"leave objective\.trained or features out"):
        small_captions.small_config(
            Path("nowhere"), objective__clips=clips, objective__frozen=True, objective__trained=["*"], features="kept"
        )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"objective__frozen": False}, "set objective.frozen=true, or leave features out"),
        ({"objective__clips": {"kind": "segments", "frames": 2}}, "objective.clips.placement would differ"),
        (
            {"objective__view": {"crop": {"kind": "random_resized", "size": 16}, "flip_probability": 0.5}},
            "objective.view.crop, objective.view.flip_probability would differ",
        ),
    ],
)
def test_random_features_cannot_be_cached(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        small_config(Path("nowhere"), **{**STILL, **changes}, features="features")


@pytest.mark.parametrize(
    "member",
    [
        b"",
        b"\xff" * 8,
        save({"video": torch.zeros(3), "labels": torch.tensor([1])}),
        save({"audio_present": torch.zeros(2), "labels": torch.tensor([1])}),
        save({"audio_present": torch.tensor(True), "labels": torch.tensor([1])})[:-1],
    ],
)
def test_damaged_features_are_those_of_a_bad_sample(member: bytes) -> None:
    raw = RawSample("clip", "00000.tar", {MEMBER: member, "txt": b"a box"})
    with pytest.raises(SampleError, match="its stored features are damaged"):
        read_features(None, raw, np.random.default_rng(0))
