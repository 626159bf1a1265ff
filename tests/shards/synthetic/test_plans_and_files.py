"""The synthetic data set: reproducible, complete on disk, with the documented splits and held-out combinations."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from pydantic import ValidationError

from tests.shards import media
from tests.shards.synthetic.stage import SMALL, digest, rows_of, stage
from trichord.core.errors import UserError
from trichord.shards.synthetic import (
    ACTIONS,
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    COMBINATIONS,
    SHAPES,
    SIZES,
    SyntheticRules,
    caption_of,
    captions,
    describe_clip,
    held_out,
    make_synthetic,
    render,
)
from trichord.shards.synthetic import make as make_module
from trichord.shards.synthetic.make import CODECS, encode


def test_the_same_seed_gives_the_same_pixels_samples_and_bytes() -> None:
    files = []
    for number in range(3):
        first, second = (render(describe_clip(11, number)) for _ in range(2))
        assert np.array_equal(first.frames_THWC, second.frames_THWC)
        assert (first.samples_N is None) == (second.samples_N is None)
        if first.samples_N is not None and second.samples_N is not None:
            assert np.array_equal(first.samples_N, second.samples_N)
        fps = describe_clip(11, number).group.fps
        pair = {encode(made.frames_THWC, made.samples_N, fps, made.rate) for made in (first, second)}
        assert len(pair) == 1
        files += list(pair)
    assert len(set(files)) == 3
    assert not np.array_equal(render(describe_clip(12, 0)).frames_THWC, render(describe_clip(11, 0)).frames_THWC)


@pytest.mark.parametrize("instructions", media.X264_INSTRUCTIONS)
def test_another_processor_encodes_the_same_frames_to_the_same_bytes(
    instructions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds for frames only: sound is encoded in floating point."""
    frames_THWC = render(describe_clip(11, 0)).frames_THWC
    expected = {encode(frames_THWC, None, 24, 16000) for _ in range(4)}
    assert len(expected) == 1
    codecs = CODECS[".mp4"]
    options = dict(codecs.video_options)
    options["x264-params"] += f":asm={instructions}"
    monkeypatch.setitem(CODECS, ".mp4", dataclasses.replace(codecs, video_options=tuple(options.items())))
    with media.plain_ffmpeg():
        assert {encode(frames_THWC, None, 24, 16000)} == expected


def test_larger_data_set_starts_with_the_smaller_one_for_any_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_synthetic(tmp_path / "short", 3, 4, rules=SMALL, processes=1)
    monkeypatch.setattr(make_module, "_FEW", 2)  # so that five clips use two processes
    make_synthetic(tmp_path / "long", 5, 4, rules=SMALL, processes=2)
    short = {path.name: digest(path) for path in (tmp_path / "short" / "videos").iterdir()}
    long = {path.name: digest(path) for path in (tmp_path / "long" / "videos").iterdir()}
    assert len(short) == 3 and len(long) == 5
    assert short.items() <= long.items()
    assert rows_of(tmp_path / "short" / "clips.csv") == rows_of(tmp_path / "long" / "clips.csv")[:3]


def test_interrupted_data_set_is_completed_and_another_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "world"
    make_synthetic(out, 3, 4, rules=SMALL, processes=1)
    before = {path.name: (digest(path), path.stat().st_mtime_ns) for path in (out / "videos").iterdir()}
    (out / "videos" / "000001.mp4").unlink()
    (out / "clips.csv").unlink()
    make_synthetic(out, 3, 4, rules=SMALL, processes=1)
    after = {path.name: (digest(path), path.stat().st_mtime_ns) for path in (out / "videos").iterdir()}
    assert after["000000.mp4"] == before["000000.mp4"]
    assert after["000001.mp4"][0] == before["000001.mp4"][0]
    assert len(rows_of(out / "clips.csv")) == 3
    receipt = json.loads((out / "world.json").read_bytes())
    del receipt["rules"]["unsaid_forms"]  # as in a data set that is older than this rule
    (out / "world.json").write_text(json.dumps(receipt))
    make_synthetic(out, 3, 4, rules=SMALL, processes=1)
    with pytest.raises(UserError, match="generated with different rules"):
        make_synthetic(out, 3, 4, rules=SMALL.model_copy(update={"unsaid_forms": 1}))
    with pytest.raises(UserError, match="generated with different seed"):
        make_synthetic(out, 3, 5, rules=SMALL)
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(UserError, match="not a generated data set"):
        make_synthetic(tmp_path, 3, 4)
    with pytest.raises(UserError, match="known: csv, charades, kinetics, ucf, msrvtt"):
        make_synthetic(tmp_path / "new", 3, 4, layout="imagenet")
    with pytest.raises(UserError, match="at least 1"):
        make_synthetic(tmp_path / "new", 0, 4)
    (out / "world.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read: Expecting property name"):
        make_synthetic(out, 3, 4, rules=SMALL)


def test_file_has_frames_and_sound_at_their_times(tmp_path: Path) -> None:
    plan = stage("blinking", "square", repeats=1)
    rendered = render(plan)
    path = tmp_path / "clip.mp4"
    path.write_bytes(encode(rendered.frames_THWC, rendered.samples_N, 24, rendered.rate))
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        frames = list(container.decode(video))
        container.seek(0)
        blocks = [(block.time, block.to_ndarray()[0]) for block in container.decode(audio)]
    assert [round(float(frame.time) * 24) for frame in frames] == list(range(96))
    decoded_THWC = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
    error = decoded_THWC.astype(float) - rendered.frames_THWC
    assert 10 * math.log10(255**2 / (error**2).mean()) > 33
    times = np.concatenate([time + np.arange(len(block)) / 16000 for time, block in blocks if time is not None])
    values = np.concatenate([block for _, block in blocks])
    loud = times[np.abs(values) > 0.05]
    assert loud.min() == pytest.approx(1.0, abs=0.03) and loud.max() == pytest.approx(3.0, abs=0.03)


def test_captions_describe_objects_and_actions_in_order() -> None:
    orders = Counter()
    for number in range(200):
        plan = describe_clip(21, number)
        texts = captions(plan, 5)
        assert len(set(texts)) == 5
        for caption in texts:
            for event in plan.events:
                assert f"{event.thing.colour} {event.thing.shape}" in caption
                assert any(phrase in caption for pair in ACTIONS[event.action].phrases for phrase in pair)
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|  |[{}]", caption)
        if len(plan.events) == 2:
            orders[plan.overlapping] += 1
            first, second = plan.events
            assert plan.overlapping == (second.start_s < first.end_s)
            ordered = [caption for caption in texts if re.match("first|after", caption)]
            for caption in ordered:
                names = [f"{event.thing.colour} {event.thing.shape}" for event in plan.events]
                assert not plan.overlapping and caption.index(names[0]) < caption.index(names[1])
    assert min(orders[True], orders[False]) > 15
    assert captions(describe_clip(21, 0), 5) == captions(describe_clip(21, 0), 5)


def test_held_out_forms_never_occur_in_captions() -> None:
    kept_back = [caption_of("red", "star", "growing", form) for form in (-2, -1)]
    assert kept_back == ["we see a red star that grows", "a red star, growing"]
    texts = {number: captions(describe_clip(21, number), 5, unsaid_forms=2) for number in range(60)}
    ones = [each for number in texts if len(describe_clip(21, number).events) == 1 for each in texts[number]]
    new = re.compile("we see|an? [^,]*, ")
    assert len(ones) > 100 and not [each for each in ones if new.match(each)]
    everything = [each for number in texts for each in captions(describe_clip(21, number), 5)]
    assert [each for each in everything if each.startswith("we see")]


def test_held_out_combinations_appear_in_the_test_split_only() -> None:
    rules = SyntheticRules(holdout_share=0.2, holdout=("red/star/*", "*/*/zigzagging"))
    secret = held_out(9, rules)
    assert {("red", "star", action) for action in CLASSES} <= secret
    assert len(secret) >= round(0.2 * len(COMBINATIONS))
    shown: dict[str, Counter[bool]] = {"train": Counter(), "val": Counter(), "test": Counter()}
    for number in range(600):
        plan = describe_clip(9, number, rules)
        for event in plan.events:
            assert event.held_out == (event.combination in secret)
            shown[plan.group.split][event.held_out] += 1
    assert shown["train"][True] == shown["val"][True] == 0
    assert shown["train"][False] > 400 and shown["test"][True] > 30 and shown["test"][False] > 30
    assert held_out(9, rules) == secret and held_out(10, rules) != secret


def test_mistakes_in_the_rules_are_named() -> None:
    with pytest.raises(UserError, match=r"no colour 'rad', did you mean 'red'"):
        describe_clip(0, 0, SyntheticRules(holdout=("rad/star/*",)))
    with pytest.raises(UserError, match="expected COLOUR/SHAPE/ACTION"):
        describe_clip(0, 0, SyntheticRules(holdout=("red star",)))
    with pytest.raises(UserError, match="training split would be empty"):
        describe_clip(0, 0, SyntheticRules(holdout=("*/*/*",)))
    moving = held_out(0, SyntheticRules(holdout_share=0, holdout=("red/star/moving",)))
    assert {action for _, _, action in moving} == {f"moving {where}" for where in ("left", "right", "up", "down")}
    for wrong in ({"min_seconds": 9}, {"train_share": 0.9, "val_share": 0.2}, {"frame_sizes": ((65, 64),)}, {"fsp": 3}):
        with pytest.raises(ValidationError):
            SyntheticRules.model_validate(wrong)


def test_splits_separate_groups_and_shares_hold_in_every_block() -> None:
    plans = [describe_clip(2, number) for number in range(240)]
    split_of: dict[str, set[str]] = {}
    scenes: dict[str, set[object]] = {}
    for plan in plans:
        split_of.setdefault(plan.group.name, set()).add(plan.group.split)
        scenes.setdefault(plan.group.name, set()).add(plan.group)
    assert len(split_of) == 30
    assert all(len(splits) == 1 for splits in split_of.values())
    assert all(len(groups) == 1 for groups in scenes.values())  # one location, one set of recording conditions
    assert len({next(iter(groups)).texture for groups in scenes.values()}) == 30  # type: ignore[attr-defined]
    for start in (0, 80, 160):
        block = Counter(plan.group.split for plan in plans[start : start + 80])
        assert block == {"train": 56, "val": 8, "test": 16}
    assert {plan.group.split for plan in plans[:10]} == {"train", "val", "test"}
    assert Counter(plan.events[0].action for plan in plans[:180]) == dict.fromkeys(CLASSES, 10)


def test_the_share_of_silent_clips_is_kept_and_their_files_have_no_sound_track(tmp_path: Path) -> None:
    assert sum(describe_clip(6, number).silent for number in range(200)) == 20
    assert not any(describe_clip(6, number, SyntheticRules(silent_share=0)).silent for number in range(40))
    rules = SMALL.model_copy(update={"silent_share": 0.5})
    summary = make_synthetic(tmp_path / "world", 6, 1, rules=rules, processes=1)
    rows = rows_of(tmp_path / "world" / "clips.csv")
    assert summary.silent == sum(row["silent"] == "true" for row in rows) > 0
    for row in rows:
        with av.open(str(tmp_path / "world" / row["path"])) as container:
            assert (not container.streams.audio) == (row["silent"] == "true")


def test_table_has_every_known_fact(tmp_path: Path) -> None:
    make_synthetic(tmp_path / "world", 6, 13, rules=SMALL, processes=1)
    assert (tmp_path / "world" / "classes.txt").read_text().split("\n") == [*CLASSES, ""]
    for number, row in enumerate(rows_of(tmp_path / "world" / "clips.csv")):
        plan = describe_clip(13, number, SMALL)
        events = json.loads(row["events"])
        assert json.loads(row["captions"]) == list(captions(plan, 5))
        assert json.loads(row["intervals"]) == [[event["action"], event["start_s"], event["end_s"]] for event in events]
        assert set(row["labels"].split(";")) == {event["action"] for event in events}
        assert [event["combination"] for event in events] == ["/".join(event.combination) for event in plan.events]
        assert (row["group"], row["split"]) == (plan.group.name, plan.group.split)
        with av.open(str(tmp_path / "world" / row["path"])) as container:
            assert container.streams.video[0].frames == plan.frames


def test_every_word_of_the_vocabulary_is_used() -> None:
    plans = [describe_clip(1, number) for number in range(700)]
    events = [event for plan in plans for event in plan.events]
    assert {event.thing.shape for event in events} == set(SHAPES)
    assert {event.thing.colour for event in events} == set(COLOURS)
    assert {event.thing.size for event in events} == set(SIZES)
    assert {plan.group.background for plan in plans} == set(BACKGROUNDS)
    assert {(plan.group.width, plan.group.height) for plan in plans} == set(SyntheticRules().frame_sizes)
    assert all(2 <= plan.duration_s <= 6 for plan in plans)
    assert all(
        (thing.colour, thing.shape) not in {(e.thing.colour, e.thing.shape) for e in plan.events}
        for plan in plans
        for thing in plan.distractors
    )
