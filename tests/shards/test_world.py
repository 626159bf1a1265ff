"""The generated world: the same for everybody, true to its labels, and honest about what is held out."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from pydantic import ValidationError

from shards.errors import UserError
from shards.world import (
    ACTIONS,
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    COMBINATIONS,
    SHAPES,
    SIZES,
    ClipPlan,
    Event,
    Thing,
    WorldRules,
    captions,
    describe_clip,
    held_out,
    make_world,
    render,
    reverse,
)
from shards.world import make as make_module
from shards.world.encode import encode
from shards.world.motion import Course, poses
from shards.world.shapes import SPOTS, distance

SMALL = WorldRules(frame_sizes=((64, 48),), fps=(12,), sample_rates=(16000,), min_seconds=2, max_seconds=3)


def stage(action: str, shape: str = "circle", colour: str = "red", size: str = "medium", **course: object) -> ClipPlan:
    """One action from 1 s to 3 s in the middle of a still, quiet place of 4 s, seen at 24 frames per second."""
    plan = describe_clip(5, 0)
    group = replace(
        plan.group, width=128, height=128, fps=24, sample_rate=16000, noise_db=-80.0, echo_gain=0.0, noise_slope=0.0
    )
    thing = Thing(shape, colour, size, 0.5, 0.5, 0.0)
    event = Event(thing, action, Course(**{"repeats": 2, **course}), 1.0, 3.0, False)  # type: ignore[arg-type]
    return replace(
        plan, group=group, frames=96, events=(event,), distractors=(), drift_x=0.0, drift_y=0.0, silent=False
    )


def centroids(frames_THWC: np.ndarray) -> np.ndarray:
    """Where the red is, in pixels (x, y), and how many pixels are red."""
    red, green, blue = (frames_THWC[..., channel].astype(int) for channel in range(3))
    mask_THW = (red > 90) & (red > 2 * green) & (red > 2 * blue)
    rows, columns = np.mgrid[: frames_THWC.shape[1], : frames_THWC.shape[2]]
    count_T = mask_THW.sum((1, 2))
    safe_T = np.maximum(count_T, 1)
    return np.stack([(mask_THW * columns).sum((1, 2)) / safe_T, (mask_THW * rows).sum((1, 2)) / safe_T, count_T], 1)


def loudest_hz(samples_N: np.ndarray, rate: int, at_s: float, window_s: float = 0.12) -> float:
    """The strongest frequency around a moment."""
    start = round((at_s - window_s / 2) * rate)
    cut_N = samples_N[start : start + round(window_s * rate)]
    spectrum = np.abs(np.fft.rfft(cut_N * np.hanning(len(cut_N)), 1 << 16))
    return float(np.argmax(spectrum) * rate / (1 << 16))


def level(samples_N: np.ndarray, rate: int, at_s: float, window_s: float = 0.1) -> float:
    start = round((at_s - window_s / 2) * rate)
    return float(np.sqrt(np.mean(samples_N[start : start + round(window_s * rate)].astype(float) ** 2)))


def sound_of(plan: ClipPlan) -> np.ndarray:
    rendered = render(plan)
    assert rendered.samples_N is not None
    return rendered.samples_N


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# The same for everybody.


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


def test_a_longer_world_begins_with_the_shorter_one_whoever_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_world(tmp_path / "short", 3, 4, rules=SMALL, processes=1)
    monkeypatch.setattr(make_module, "_FEW", 2)  # so that five clips are worth two processes
    make_world(tmp_path / "long", 5, 4, rules=SMALL, processes=2)
    short = {path.name: digest(path) for path in (tmp_path / "short" / "videos").iterdir()}
    long = {path.name: digest(path) for path in (tmp_path / "long" / "videos").iterdir()}
    assert len(short) == 3 and len(long) == 5
    assert short.items() <= long.items()
    assert rows_of(tmp_path / "short" / "clips.csv") == rows_of(tmp_path / "long" / "clips.csv")[:3]


def test_an_interrupted_world_is_finished_and_another_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "world"
    make_world(out, 3, 4, rules=SMALL, processes=1)
    before = {path.name: (digest(path), path.stat().st_mtime_ns) for path in (out / "videos").iterdir()}
    (out / "videos" / "000001.mp4").unlink()
    (out / "clips.csv").unlink()
    make_world(out, 3, 4, rules=SMALL, processes=1)
    after = {path.name: (digest(path), path.stat().st_mtime_ns) for path in (out / "videos").iterdir()}
    assert after["000000.mp4"] == before["000000.mp4"]
    assert after["000001.mp4"][0] == before["000001.mp4"][0]
    assert len(rows_of(out / "clips.csv")) == 3
    with pytest.raises(UserError, match="made with other seed"):
        make_world(out, 3, 5, rules=SMALL)
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(UserError, match="not a world"):
        make_world(tmp_path, 3, 4)
    with pytest.raises(UserError, match="known: csv, charades, kinetics, ucf, msrvtt"):
        make_world(tmp_path / "new", 3, 4, layout="imagenet")
    with pytest.raises(UserError, match="at least 1"):
        make_world(tmp_path / "new", 0, 4)
    (out / "world.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        make_world(out, 3, 4, rules=SMALL)


# What is seen.


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("circle", math.pi * 0.92**2),
        ("square", 1.6**2),
        ("triangle", 1.5 * math.sqrt(3) / 2),  # height 1.5 from the tip at -1 to the base at 0.5
        ("star", 10 * 0.5 * 1.0 * 0.46 * math.sin(math.pi / 5)),
        ("ring", math.pi * (0.94**2 - 0.38**2)),
        ("cross", 2 * (1.84 * 0.64) - 0.64**2),
    ],
)
def test_shapes_cover_the_area_that_geometry_says(shape: str, area: float) -> None:
    axis = np.linspace(-1.5, 1.5, 1201, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    inside = distance(shape, x.astype(np.float32), y.astype(np.float32)) < 0
    assert inside.mean() * 9 == pytest.approx(area, rel=0.01)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_carries_its_spot_inside_and_stays_within_its_radius(shape: str) -> None:
    x, y = (np.full((1, 1), value, np.float32) for value in SPOTS[shape])
    assert distance(shape, x, y)[0, 0] < -0.1
    angles = np.linspace(0, 2 * np.pi, 90, dtype=np.float32)[None]
    assert (distance(shape, np.float32(1.2) * np.cos(angles), np.float32(1.2) * np.sin(angles)) > 0).all()


@pytest.mark.parametrize("colour", COLOURS)
def test_objects_show_their_colour_and_only_where_they_are(colour: str) -> None:
    frames_THWC = render(stage("rocking", "square", colour)).frames_THWC
    shown = frames_THWC[0, 64, 64].astype(float)
    assert np.abs(shown / shown.max() - np.array(COLOURS[colour]) / max(COLOURS[colour])).max() < 0.06
    still = replace(stage("rocking", "square", colour), events=())
    outside = np.ones((128, 128), bool)
    outside[36:92, 36:92] = False
    assert np.array_equal(frames_THWC[0][outside], render(still).frames_THWC[0][outside])


def test_moves_and_circles_go_where_their_names_say() -> None:
    shift = {}
    for name in ("left", "right", "up", "down"):
        path = centroids(render(stage(f"moving {name}")).frames_THWC)
        shift[name] = (path[-1] - path[0])[:2] / 128
    assert shift["left"] == pytest.approx([-0.54, 0], abs=0.01)  # twice the half path of 0.27
    assert shift["right"] == pytest.approx([0.54, 0], abs=0.01)
    assert shift["up"] == pytest.approx([0, -0.54], abs=0.01)
    assert shift["down"] == pytest.approx([0, 0.54], abs=0.01)
    for name, sign in (("clockwise", 1), ("anticlockwise", -1)):
        around = centroids(render(stage(f"circling {name}", phase=1.0)).frames_THWC)[24:73, :2] - 63.5
        turned = np.unwrap(np.arctan2(around[:, 1], around[:, 0]))  # y points down, so clockwise is positive
        assert (turned[-1] - turned[0]) / (2 * math.pi) == pytest.approx(2 * sign, abs=0.1)


@pytest.mark.parametrize(("name", "sign"), [("clockwise", 1), ("anticlockwise", -1)])
def test_the_spot_shows_which_way_a_circle_spins(name: str, sign: int) -> None:
    frames_THWC = render(stage(f"spinning {name}", "circle", "white", repeats=1)).frames_THWC.astype(float).mean(-1)
    rows, columns = np.mgrid[:128, :128] - 63.5
    inner = np.hypot(rows, columns) < 0.13 * 128 * 0.7
    darkness = np.maximum(150 - frames_THWC, 0) * inner
    angle_T = np.unwrap(np.arctan2((darkness * rows).sum((1, 2)), (darkness * columns).sum((1, 2))))
    assert (angle_T[-1] - angle_T[0]) / (2 * math.pi) == pytest.approx(sign, abs=0.05)
    assert angle_T[0] == pytest.approx(-math.pi / 2, abs=0.1)  # the spot starts at the top


def test_growing_blinking_and_fading_change_what_is_visible() -> None:
    area = {name: centroids(render(stage(name)).frames_THWC)[:, 2] for name in CLASSES}
    assert area["growing"][-1] / area["growing"][0] == pytest.approx((1.45 / 0.55) ** 2, rel=0.15)
    assert area["shrinking"][0] / area["shrinking"][-1] == pytest.approx((1.45 / 0.55) ** 2, rel=0.15)
    assert area["appearing"][0] == 0 and area["appearing"][-1] > 300
    assert area["vanishing"][0] > 300 and area["vanishing"][-1] == 0
    assert np.count_nonzero(np.diff((area["blinking"] > 0).astype(int)) == -1) == 2  # two repeats: twice off
    assert area["pulsing"].max() / area["pulsing"][0] == pytest.approx(1.4**2, rel=0.1)


@pytest.mark.parametrize("action", CLASSES)
def test_a_reversed_plan_is_the_clip_played_backwards(action: str) -> None:
    plan = next(plan for number in range(18) if (plan := describe_clip(3, number)).events[0].action == action)
    backwards = reverse(plan)
    frames_THWC, reversed_THWC = render(plan).frames_THWC, render(backwards).frames_THWC
    assert np.abs(reversed_THWC[::-1].astype(int) - frames_THWC.astype(int)).max() <= 2
    # So the bag of frames is the same, and only the order tells the two classes apart.
    means = [np.sort(frames.reshape(len(frames), -1).mean(1)) for frames in (frames_THWC, reversed_THWC)]
    assert np.allclose(*means, atol=0.05)
    assert Counter(event.action for event in backwards.events) == Counter(
        ACTIONS[event.action].reverse for event in plan.events
    )
    again = reverse(backwards)
    assert [event.action for event in again.events] == [event.action for event in plan.events]
    assert again.origin_x == pytest.approx(plan.origin_x)


def test_enough_actions_are_told_apart_by_order_alone() -> None:
    assert all(ACTIONS[ACTIONS[name].reverse].reverse == name for name in CLASSES)
    assert sum(ACTIONS[name].reverse != name for name in CLASSES) == 12


@pytest.mark.parametrize("action", CLASSES)
def test_the_picture_moves_when_the_interval_says(action: str) -> None:
    frames_THWC = render(stage(action)).frames_THWC.astype(int)
    changed = (
        np.flatnonzero(np.abs(np.diff(frames_THWC, axis=0)).max((1, 2, 3)) > 2) + 1
    )  # frames unlike the one before
    slack = 12 if action == "blinking" else 3  # a blinking thing is still seen for a while before it goes out
    assert 24 < changed.min() <= 24 + slack  # from 1 s on, at 24 frames per second
    assert 72 - slack <= changed.max() <= 72


def test_actions_stay_inside_the_frame() -> None:
    for number in range(150):
        plan = describe_clip(8, number)
        aspect = plan.group.width / plan.group.height
        for event in plan.events:
            assert 0 <= event.start_s < event.end_s <= plan.duration_s + 0.005
            path = poses(event.action, event.course, np.linspace(0, 1, 101))
            radius = SIZES[event.thing.size].radius * path.scale_N
            x, y = event.thing.x + path.x_N, event.thing.y + path.y_N
            for place, length in ((x, aspect), (y, 1.0)):
                assert (place - radius).min() > -0.05 and (place + radius).max() < length + 0.05


# What is heard.


def test_pitch_follows_height_size_and_turning() -> None:
    base = SIZES["medium"].pitch_hz
    half = 32 * 0.27 * 0.95  # semitones away from the middle, 5 % of the way from either end
    for action, sign in (("moving up", 1), ("moving down", -1)):
        sound = sound_of(stage(action))
        for at_s, side in ((1.05, -sign), (2.0, 0), (2.95, sign)):
            expected = base * 2 ** (side * half / 12)
            assert loudest_hz(sound, 16000, at_s, 0.06) == pytest.approx(expected, rel=0.04)
    growing, shrinking = (sound_of(stage(action)) for action in ("growing", "shrinking"))
    assert loudest_hz(growing, 16000, 1.1) == pytest.approx(base / (0.55 * (1.45 / 0.55) ** 0.05), rel=0.04)
    assert loudest_hz(growing, 16000, 2.9) == pytest.approx(base / (1.45 * (0.55 / 1.45) ** 0.05), rel=0.04)
    assert loudest_hz(shrinking, 16000, 1.1) == pytest.approx(loudest_hz(growing, 16000, 2.9), rel=0.04)
    for action, sign in (("spinning clockwise", 1), ("spinning anticlockwise", -1)):
        sound = sound_of(stage(action, repeats=1))
        early, late = (loudest_hz(sound, 16000, at_s) for at_s in (1.2, 1.7))
        assert 12 * math.log2(late / early) == pytest.approx(sign * 3, abs=0.3)  # a quarter turn of twelve semitones


def test_loudness_follows_nearness_and_visibility() -> None:
    for action, sign in (("moving right", 1), ("moving left", -1)):
        sound = sound_of(stage(action, size="small"))
        change_db = 20 * math.log10(level(sound, 16000, 2.5) / level(sound, 16000, 1.5))
        assert change_db == pytest.approx(sign * 0.27 * 40, abs=1.0)  # half the path, 40 dB per frame height
    appearing, vanishing = (sound_of(stage(action)) for action in ("appearing", "vanishing"))
    assert level(appearing, 16000, 2.5) / level(appearing, 16000, 1.5) == pytest.approx(3, rel=0.1)
    assert level(vanishing, 16000, 1.5) / level(vanishing, 16000, 2.5) == pytest.approx(3, rel=0.1)
    blinking = sound_of(stage("blinking"))  # off in the middle of each of its two periods
    for at_s, is_heard in ((1.1, True), (1.5, False), (2.0, True), (2.5, False), (2.9, True)):
        assert (level(blinking, 16000, at_s, 0.04) > 0.02) == is_heard


def test_a_reversed_action_has_the_reversed_contour() -> None:
    for action in CLASSES:
        plan = stage(action, phase=0.7)
        there, back = sound_of(plan), sound_of(reverse(plan))
        offset_s = 1 / 24  # frame k is drawn at k/24 s, so the mirror lies half a frame before the middle
        for at_s in np.linspace(1.15, 2.85, 18):
            mirrored_s = 4 - offset_s - at_s
            here = (level(there, 16000, at_s, 0.08), level(back, 16000, mirrored_s, 0.08))
            assert here[0] == pytest.approx(here[1], rel=0.15, abs=0.004), (action, at_s)
            if min(here) > 0.02 and "spinning" not in action:  # a jump of a spin's glide falls into some windows
                pitches = [loudest_hz(there, 16000, at_s, 0.08), loudest_hz(back, 16000, mirrored_s, 0.08)]
                assert pitches[0] == pytest.approx(pitches[1], rel=0.04), (action, at_s)


def test_shapes_have_different_timbres_and_sizes_different_pitches() -> None:
    profiles = []
    for shape in SHAPES:
        cut = sound_of(stage("rocking", shape, repeats=1))[16000 * 2 - 2000 : 16000 * 2 + 2000]
        spectrum = np.abs(np.fft.rfft(cut * np.hanning(len(cut))))
        profiles.append(spectrum / np.linalg.norm(spectrum))
    alike = np.array(profiles) @ np.array(profiles).T - np.eye(len(SHAPES))
    assert alike.max() < 0.95
    heard = [loudest_hz(sound_of(stage("blinking", size=size)), 16000, 2.0) for size in ("large", "medium", "small")]
    assert heard == pytest.approx([210, 330, 520], rel=0.01)


def test_outside_events_there_is_only_the_noise_of_the_place() -> None:
    plan = stage("shaking")
    plan = replace(plan, group=replace(plan.group, noise_db=-45.0, noise_slope=0.5))
    sound = sound_of(plan)
    assert len(sound) == 4 * 16000 and sound.dtype == np.float32 and np.abs(sound).max() < 1
    for silence in (sound[: 16000 - 10], sound[3 * 16000 + 10 :]):
        assert 20 * math.log10(float(np.sqrt(np.mean(silence**2)))) == pytest.approx(-45, abs=1.5)
    assert level(sound, 16000, 2.0, 1.5) > 10 ** (-30 / 20)


def test_the_file_holds_picture_and_sound_at_their_times(tmp_path: Path) -> None:
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


# What is said, held out and split.


def test_captions_say_who_does_what_in_which_order() -> None:
    orders = Counter()
    for number in range(200):
        plan = describe_clip(21, number)
        said = captions(plan, 5)
        assert len(set(said)) == 5
        for caption in said:
            for event in plan.events:
                assert f"{event.thing.colour} {event.thing.shape}" in caption
                assert any(phrase in caption for pair in ACTIONS[event.action].phrases for phrase in pair)
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|  |[{}]", caption)
        if len(plan.events) == 2:
            orders[plan.overlapping] += 1
            first, second = plan.events
            assert plan.overlapping == (second.start_s < first.end_s)
            ordered = [caption for caption in said if re.match("first|after", caption)]
            for caption in ordered:
                names = [f"{event.thing.colour} {event.thing.shape}" for event in plan.events]
                assert not plan.overlapping and caption.index(names[0]) < caption.index(names[1])
    assert min(orders[True], orders[False]) > 15
    assert captions(describe_clip(21, 0), 5) == captions(describe_clip(21, 0), 5)


def test_held_out_combinations_appear_in_the_test_split_only() -> None:
    rules = WorldRules(holdout_share=0.2, holdout=("red/star/*", "*/*/zigzagging"))
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
        describe_clip(0, 0, WorldRules(holdout=("rad/star/*",)))
    with pytest.raises(UserError, match="expected COLOUR/SHAPE/ACTION"):
        describe_clip(0, 0, WorldRules(holdout=("red star",)))
    with pytest.raises(UserError, match="training split would be empty"):
        describe_clip(0, 0, WorldRules(holdout=("*/*/*",)))
    moving = held_out(0, WorldRules(holdout_share=0, holdout=("red/star/moving",)))
    assert {action for _, _, action in moving} == {f"moving {where}" for where in ("left", "right", "up", "down")}
    for wrong in ({"min_seconds": 9}, {"train_share": 0.9, "val_share": 0.2}, {"frame_sizes": ((65, 64),)}, {"fsp": 3}):
        with pytest.raises(ValidationError):
            WorldRules.model_validate(wrong)


def test_splits_keep_groups_apart_and_shares_hold_in_every_block() -> None:
    plans = [describe_clip(2, number) for number in range(240)]
    split_of: dict[str, set[str]] = {}
    scenes: dict[str, set[object]] = {}
    for plan in plans:
        split_of.setdefault(plan.group.name, set()).add(plan.group.split)
        scenes.setdefault(plan.group.name, set()).add(plan.group)
    assert len(split_of) == 30
    assert all(len(splits) == 1 for splits in split_of.values())
    assert all(len(groups) == 1 for groups in scenes.values())  # one place, one set of recording conditions
    assert len({next(iter(groups)).texture for groups in scenes.values()}) == 30  # type: ignore[attr-defined]
    for start in (0, 80, 160):
        block = Counter(plan.group.split for plan in plans[start : start + 80])
        assert block == {"train": 56, "val": 8, "test": 16}
    assert {plan.group.split for plan in plans[:10]} == {"train", "val", "test"}
    assert Counter(plan.events[0].action for plan in plans[:180]) == dict.fromkeys(CLASSES, 10)


def test_the_share_of_silent_clips_is_kept_and_their_files_have_no_sound_track(tmp_path: Path) -> None:
    assert sum(describe_clip(6, number).silent for number in range(200)) == 20
    assert not any(describe_clip(6, number, WorldRules(silent_share=0)).silent for number in range(40))
    rules = SMALL.model_copy(update={"silent_share": 0.5})
    summary = make_world(tmp_path / "world", 6, 1, rules=rules, processes=1)
    rows = rows_of(tmp_path / "world" / "clips.csv")
    assert summary.silent == sum(row["silent"] == "true" for row in rows) > 0
    for row in rows:
        with av.open(str(tmp_path / "world" / row["path"])) as container:
            assert (not container.streams.audio) == (row["silent"] == "true")


def test_the_table_says_everything_that_is_known(tmp_path: Path) -> None:
    make_world(tmp_path / "world", 6, 13, rules=SMALL, processes=1)
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


# Dressed as public datasets; read back by nothing but the formats' own words.


def test_charades_files(tmp_path: Path) -> None:
    out = tmp_path / "charades"
    make_world(out, 40, 3, "charades", SMALL.model_copy(update={"no_event_share": 0.15}), processes=1)
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


def test_kinetics_files(tmp_path: Path) -> None:
    out = tmp_path / "kinetics"
    make_world(out, 12, 3, "kinetics", SMALL, processes=1)
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
    make_world(out, 60, 3, "ucf", rules, processes=1)
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
    make_world(out, 20, 3, "msrvtt", SMALL, processes=1)
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
    said = {(sentence["video_id"], sentence["caption"]) for sentence in sentences}
    assert all((pair["video_id"], pair["sentence"]) in said for pair in pairs)
    trained = {row["video_id"] for row in rows_of(out / "MSRVTT_train.9k.csv")}
    assert trained == {video["video_id"] for video in learned["videos"]}
    assert (out / "TrainValVideo" / "video0.mp4").is_file() and (out / "TestVideo" / "video19.mp4").is_file()


def test_every_word_of_the_world_is_used() -> None:
    plans = [describe_clip(1, number) for number in range(700)]
    events = [event for plan in plans for event in plan.events]
    assert {event.thing.shape for event in events} == set(SHAPES)
    assert {event.thing.colour for event in events} == set(COLOURS)
    assert {event.thing.size for event in events} == set(SIZES)
    assert {plan.group.background for plan in plans} == set(BACKGROUNDS)
    assert {(plan.group.width, plan.group.height) for plan in plans} == set(WorldRules().frame_sizes)
    assert all(2 <= plan.duration_s <= 6 for plan in plans)
    assert all(
        (thing.colour, thing.shape) not in {(e.thing.colour, e.thing.shape) for e in plan.events}
        for plan in plans
        for thing in plan.distractors
    )
