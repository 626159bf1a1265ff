"""Slow-fast inference equals a naive computation, is a setting of `trichord evaluate`, and refuses other cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from tests.finetune.small_head import BACKBONE, HEARD, small_config, write_shards
from trichord.finetune.tasks.classification.model import Classification
from trichord.launch import cli
from trichord.pretrain.engine import run as engine_run
from trichord.pretrain.engine.rehearsal import fake_batch
from trichord.pretrain.engine.training import build
from trichord.shards.reading.batch import Timeline

NOWHERE = Path("nowhere")
TEST_FRAMES, SIZE = 6, 32
SLOW_FAST: dict[str, Any] = {
    "objective__test_clips": {"kind": "segments", "frames": TEST_FRAMES, "placement": "centre", "clips": 2},
    "objective__test_view": {"crop": {"kind": "squash", "size": SIZE}},
    "objective__test_slow_fast": {"slow_frames": 2, "fast_size": 16},
}


def test_vectors_of_slow_and_fast_frames_are_averaged() -> None:
    model = build(small_config(NOWHERE, **SLOW_FAST, objective__average="logit")).eval()
    assert isinstance(model, Classification) and model.video is not None
    model.head[-1].weight.data.normal_(generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    batch = fake_batch(model.spec.test_spec(), 3)
    views = [torch.randint(0, 255, view.shape, generator=generator, dtype=torch.uint8) for view in batch.video]
    batch = batch.replace(video=views, timeline=[Timeline(((0.0, 1.0), (1.0, 2.0)))] * 3)
    found_BCK = model.clip_scores(batch)
    assert found_BCK.shape == (3, 2, model.spec.count)
    for number, frames_BCTHW in enumerate(views):
        pixels_BCTHW = model.spec.normalisation(frames_BCTHW).double()
        slow_BCTHW = pixels_BCTHW[:, :, [1, 4]]  # the middle frame of each half
        half_hH = halving(SIZE)
        fast_BCTHW = torch.einsum("bcthw,ih,jw->bctij", pixels_BCTHW, half_hH, half_hH)
        vectors = [model.video.backbone(each.float()).pooled_BD for each in (slow_BCTHW, fast_BCTHW)]
        expected_BK = model.head(model.video.pool((vectors[0] + vectors[1])[:, None] / 2))
        torch.testing.assert_close(found_BCK[:, number], expected_BK, atol=1e-4, rtol=1e-4)
        one_view_BK = model.logits(frames_BCTHW, None, batch.audio_present)
        assert (found_BCK[:, number] - one_view_BK).abs().max() > 1e-2


def halving(size: int) -> Tensor:
    """Return the matrix that halves a side: each pixel is a weighted mean of those within two pixels of its centre."""
    weights = np.zeros((size // 2, size))
    for row in range(size // 2):
        for column in range(size):
            weights[row, column] = max(0.0, 1 - abs(column + 0.5 - 2 * (row + 0.5)) / 2)
    return torch.from_numpy(weights / weights.sum(axis=1, keepdims=True))


def test_evaluation_accepts_it_as_settings(
    tmp_path: Path, quick_starts: None, capsys: pytest.CaptureFixture[str]
) -> None:
    shards, run = write_shards(tmp_path / "shards", 8), tmp_path / "run"
    engine_run.pretrain(small_config(shards, steps=2), run)
    pair = ["objective.test_slow_fast.slow_frames=2", "objective.test_slow_fast.fast_size=8"]
    words = ["evaluate", str(run), "objective.test_clips.frames=4", "--pictures", "none", "--json"]
    found = []
    for settings in ([], pair):
        capsys.readouterr()
        assert cli.main([*words[:2], *settings, *words[2:], "--name", f"with{len(settings)}"]) == 0
        found.append(json.loads(capsys.readouterr().out)["rows"][0])
    assert found[0]["clips"] == found[1]["clips"] == 8
    assert found[1]["views"] == f"{found[0]['views']}, slow-fast: 2 frames of 16 px with 4 of 8 px"
    assert found[0]["calibration_error"] != found[1]["calibration_error"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective__head": {"pool": "mean"}}, r"set head.pool=pooled"),
        ({**HEARD}, r"averages pooled vectors of videos"),
        ({"objective__test_slow_fast": {"slow_frames": 8, "fast_size": 16}}, r"takes 8 frames .* has 6 frames of 32"),
        ({"objective__test_slow_fast": {"slow_frames": 2, "fast_size": 40}}, r"40 pixels of a test clip"),
        ({"objective__test_slow_fast": {"slow_frames": 2, "fast_size": 12}}, r"pixels in multiples of 8"),
        ({"backbone": {"kind": "vivit", **{name: BACKBONE[name] for name in ("dim", "depth", "heads", "patch")},
                       "size": 32, "frames": 6},
          "objective__test_slow_fast": {"slow_frames": 3, "fast_size": 16}}, r"in multiples of 2"),
    ],
)  # fmt: skip
def test_unsupported_cases_are_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        small_config(NOWHERE, **{**SLOW_FAST, **changes})
