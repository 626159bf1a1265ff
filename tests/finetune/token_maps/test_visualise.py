"""`trichord visualise`: files named by key, maps of the shown frames, and errors with a message."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.finetune import small_head
from tests.shards import media
from trichord.finetune.loading import load_run
from trichord.finetune.token_maps.maps import attended_places, video_encoder_of
from trichord.finetune.token_maps.visualise import frames_of, heat_over
from trichord.launch import cli
from trichord.shards.sample import batch_of, read_video


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_head.write_shards(tmp_path_factory.mktemp("seen") / "clips", 8)


def test_some_clips_of_shards_are_drawn(
    svt: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--out", str(tmp_path), *["--kind", "pca", "--count", "2", "--png", "--json"]]
    assert cli.main(["visualise", str(svt), str(shards), *options]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["clip"] for row in rows] == ["clip000", "clip004"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip000.pca.png", "clip004.pca.png"]


def test_video_is_drawn_with_the_map_of_its_own_frames(svt: Path, tmp_path: Path) -> None:
    video = tmp_path / "mine.mp4"
    video.write_bytes(media.encode(media.moving_picture(8, 32, 32)))
    assert cli.main(["visualise", str(svt), str(video), "--out", str(tmp_path / "drawn")]) == 0
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == {"mine.attention.gif", "mine.attention.png"}
    eyes = video_encoder_of(load_run(svt, torch.device("cpu")))
    batch = batch_of(read_video(video), eyes.spec)
    places = attended_places(eyes.backbone, eyes.pixels(batch))
    expected_THWC = heat_over(frames_of(batch), places.weight_Bthw[0])
    sheet = np.asarray(Image.open(tmp_path / "drawn/mine.attention.png"))
    times = 192 // expected_THWC.shape[1]
    top, side = 4 + 4 + times * expected_THWC.shape[1], times * expected_THWC.shape[1]
    drawn = sheet[top : top + side : times, 4 : 4 + side : times]
    assert np.array_equal(drawn, expected_THWC[0])


def test_errors_suggest_a_command(svt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"\x00\x01\x02" * 500)
    for run, seen, message in (
        (tmp_path, tmp_path / "broken.mp4", "is not a run folder"),
        (svt, tmp_path / "broken.mp4", "cannot be used"),
        (svt, tmp_path / "gone.mp4", "expected a video file"),
        (svt, tmp_path, "manifest"),
    ):
        assert cli.main(["visualise", str(run), str(seen), "--out", str(tmp_path / "drawn")]) == 2
        assert message in capsys.readouterr().err
