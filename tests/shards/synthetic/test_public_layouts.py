"""The synthetic data set in the layouts of public datasets, checked by the rules of those formats alone."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path

import av

from tests.shards.synthetic.stage import SMALL, rows_of
from trichord.shards.synthetic import (
    CLASSES,
    make_synthetic,
)


def test_charades_files(tmp_path: Path) -> None:
    out = tmp_path / "charades"
    make_synthetic(out, 40, 3, "charades", SMALL.model_copy(update={"no_event_share": 0.15}), processes=1)
    classes = (out / "Charades" / "Charades_v1_classes.txt").read_text().splitlines()
    assert classes[0] == "c000 moving left" and [line[1:4] for line in classes] == [f"{n:03d}" for n in range(18)]
    tables = {split: rows_of(out / "Charades" / f"Charades_v1_{split}.csv") for split in ("train", "test")}
    rows = tables["train"] + tables["test"]
    header = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length"
    assert ",".join(rows[0]) == header
    assert sorted(f"{row['id']}.mp4" for row in rows) == sorted(os.listdir(out / "Charades_v1_480"))
    assert len({row["id"] for row in rows}) == 40 and all(re.fullmatch("[0-9A-Z]{5}", row["id"]) for row in rows)
    assert all("," in row["script"] for row in rows)
    assert not {row["subject"] for row in tables["train"]} & {row["subject"] for row in tables["test"]}
    assert any(not row["actions"] for row in rows)
    overlong = 0
    for row in rows:
        for action in filter(None, row["actions"].split(";")):
            assert re.fullmatch(r"c0\d\d \d+\.\d\d \d+\.\d\d", action)
            _, start, end = action.split()
            assert float(start) < float(end) and float(start) < float(row["length"])
            overlong += float(end) > float(row["length"]) + 0.05
    assert 0 < overlong < len(rows) / 2


def test_plain_data_set_in_the_layout_of_charades(tmp_path: Path) -> None:
    out = tmp_path / "charades"
    make_synthetic(out, 2, 3, "charades", SMALL.model_copy(update={"is_plain": True}), processes=1)
    rows = [row for split in ("train", "test") for row in rows_of(out / "Charades" / f"Charades_v1_{split}.csv")]
    assert {row["scene"] for row in rows} == {"a plain grey wall"}


def test_kinetics_files(tmp_path: Path) -> None:
    out = tmp_path / "kinetics"
    make_synthetic(out, 12, 3, "kinetics", SMALL, processes=1)
    names: list[str] = []
    for split in ("train", "val", "test"):
        for row in rows_of(out / "annotations" / f"{split}.csv"):
            assert list(row) == ["label", "youtube_id", "time_start", "time_end", "split"]
            assert row["split"] == split and row["label"] in CLASSES
            assert re.fullmatch(r"[A-Za-z0-9_-]{11}", row["youtube_id"])
            names.append(f"{split}/{row['youtube_id']}_{int(row['time_start']):06d}_{int(row['time_end']):06d}.mp4")
            with av.open(str(out / names[-1])) as container:
                longest = int(row["time_end"]) - int(row["time_start"])
                assert longest - 1 < (container.duration or 0) / 1e6 <= longest + 0.2
    assert sorted(names) == sorted(f"{path.parent.name}/{path.name}" for path in out.glob("*/*.mp4"))
    assert len(set(names)) == 12


def test_ucf_files(tmp_path: Path) -> None:
    out = tmp_path / "ucf"
    rules = SMALL.model_copy(update={"holdout_share": 0.3})
    make_synthetic(out, 60, 3, "ucf", rules, processes=1)
    numbers = dict(line.split()[::-1] for line in (out / "ucfTrainTestlist" / "classInd.txt").read_text().splitlines())
    assert list(numbers.values()) == [str(number) for number in range(1, 19)]
    videos = {f"{path.parent.name}/{path.name}" for path in (out / "UCF-101").glob("*/*.avi")}
    assert len(videos) == 60
    tests = []
    for fold in (1, 2, 3):
        train = (out / "ucfTrainTestlist" / f"trainlist{fold:02d}.txt").read_text().splitlines()
        test = (out / "ucfTrainTestlist" / f"testlist{fold:02d}.txt").read_text().splitlines()
        assert {line.split()[0] for line in train} | set(test) == videos
        for name, number in (line.split() for line in train):
            found = re.fullmatch(r"(\w+)/v_\1_g(\d\d)_c(\d\d)\.avi", name)
            assert found and numbers[found[1]] == number
        groups = [{line.split()[0].rsplit("_c", 1)[0] for line in lines} for lines in (train, test)]
        assert groups[0] and groups[1] and not groups[0] & groups[1]
        tests.append(set(test))
    assert tests[0] < tests[1] and tests[0] < tests[2] and tests[1] != tests[2]
    with av.open(str(next(iter(sorted((out / "UCF-101").glob("*/*.avi")))))) as container:
        assert container.format.name == "avi" and container.streams.video[0].codec_context.name == "mpeg4"
        assert sum(1 for _ in container.decode(video=0)) >= 24


def test_msrvtt_files(tmp_path: Path) -> None:
    out = tmp_path / "msrvtt"
    make_synthetic(out, 20, 3, "msrvtt", SMALL, processes=1)
    learned, tested = (json.loads((out / f"{name}_videodatainfo.json").read_text()) for name in ("train_val", "test"))
    videos = learned["videos"] + tested["videos"]
    assert [video["video_id"] for video in videos] == [f"video{number}" for number in range(20)]
    assert [video["split"] for video in videos] == sorted(
        (video["split"] for video in videos), key=["train", "validate", "test"].index
    )
    assert {"id", "video_id", "category", "url", "start time", "end time", "split"} == set(videos[0])
    sentences = learned["sentences"] + tested["sentences"]
    assert Counter(sentence["video_id"] for sentence in sentences) == dict.fromkeys(
        (video["video_id"] for video in videos), 20
    )
    assert [sentence["sen_id"] for sentence in sentences] == list(range(400))
    categories = dict(line.split("\t")[::-1] for line in (out / "category.txt").read_text().splitlines())
    assert all(0 <= video["category"] < 20 and str(video["category"]) in categories for video in videos)
    pairs = rows_of(out / "MSRVTT_JSFUSION_test.csv")
    assert list(pairs[0]) == ["key", "vid_key", "video_id", "sentence"]
    assert [pair["video_id"] for pair in pairs] == [video["video_id"] for video in tested["videos"]]
    assert pairs[0]["vid_key"] == pairs[0]["video_id"].replace("video", "msr")
    captions = {(sentence["video_id"], sentence["caption"]) for sentence in sentences}
    assert all((pair["video_id"], pair["sentence"]) in captions for pair in pairs)
    trained = {row["video_id"] for row in rows_of(out / "MSRVTT_train.9k.csv")}
    assert trained == {video["video_id"] for video in learned["videos"]}
    assert (out / "TrainValVideo" / "video0.mp4").is_file() and (out / "TestVideo" / "video19.mp4").is_file()
