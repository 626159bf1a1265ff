"""`shards verify`: its figures for good clips, its sampling, and its errors where the manifest is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.shards import media
from tests.shards.inspection import hostile
from trichord.core.errors import UserError
from trichord.launch import cli
from trichord.shards.decoding.video import open_video
from trichord.shards.inspection.verify import verify
from trichord.shards.reading.manifest import Manifest, index_shards


def write_set(folder: Path) -> Path:
    folder.mkdir()
    mute = media.encode(media.moving_picture(20), np.zeros(35_280, np.float32))
    clips = {
        "a": {"mp4": media.clip(10), "txt": b"words", "json": b'{"labels": [1]}'},
        "b": {"mp4": media.clip(25, sound=False)},
        "c": {"mp4": mute, "json": b'{"intervals": [{"label": 0, "start": 0, "end": 1}]}'},
        "d": {"webm": media.encode(media.moving_picture(5, 64, 48), container="webm", codec="libvpx-vp9")},
    }
    for number, key in enumerate(clips):
        hostile.write_tar(folder / f"{number}.tar", hostile.named({key: clips[key]}))
    index_shards(folder).save(folder)
    return folder


def test_figures_of_good_clips(tmp_path: Path) -> None:
    report = verify(write_set(tmp_path / "set"), workers=2)
    assert (report.samples, report.good, report.exit_code) == (4, 4, 0)
    assert report.share("no_sound_track") == 0.5
    assert report.share("sound_all_zero") == 0.25
    assert report.share("with_caption") == 0.25
    assert report.share("with_labels") == 0.5
    assert report.codecs("video_codec") == {"h264": 3, "vp9": 1}
    assert report.codecs("sound_codec") == {"aac": 2, "none": 2}
    assert report.spread("frames") == {"least": 5, "5 %": 5, "median": 10, "95 %": 25, "most": 25}
    assert (report.spread("width")["least"], report.spread("height")["most"]) == (64, 64)
    assert report.spread("seconds")["most"] == 1.0


def test_sampling_depends_on_the_seed_and_opens_only_the_chosen_shards(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set")
    overviews = [verify(root, sample=2, seed=4).overview() for _ in range(2)]
    assert overviews[0] == overviews[1]
    assert (overviews[0]["samples"], overviews[0]["shards"]) == (2, 2)
    assert verify(root, sample=0.75).samples == 3
    with pytest.raises(UserError, match="is empty"):
        verify(root, sample=0.01)


def test_wrong_manifest_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_set(tmp_path / "set")
    stored = Manifest.load(root)
    first = stored.shards[0].model_copy(update={"samples": 3, "bytes": 1, "sha256": "0" * 64})
    stored.model_copy(update={"shards": (first, *stored.shards[1:])}).save(root)
    report = verify(root, with_checksums=True)
    assert len(report.disagreements) == 3
    assert report.overview()["bad"] == {"missing": 2}
    assert cli.main(["shards", "verify", str(root), "--json"]) == 1
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["good"], row["bad"], len(row["disagreements"])) == (4, {"missing": 2}, 2)


def test_labels_outside_the_named_classes_are_bad(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set")
    Manifest.load(root).model_copy(update={"classes": ("one",)}).save(root)
    (found,) = verify(root).findings
    assert (found.key, found.cause) == ("a", "bad_label")
    assert found.detail == "label 1, expected a number below 1, the number of classes"


def test_every_frame_is_decoded_once() -> None:
    video = open_video(media.encode(media.moving_picture(30), options={"bf": "2", "g": "10"}))
    assert sum(1 for _ in video.walk()) == len(video) == 30
