"""Frames of the synthetic data set: shapes, colours, and actions that match their names in place and time."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from tests.shards.synthetic.stage import centroids, stage
from trichord.shards.synthetic import (
    ACTIONS,
    CLASSES,
    COLOURS,
    SHAPES,
    SIZES,
    SyntheticRules,
    describe_clip,
    render,
    reverse,
)
from trichord.shards.synthetic.motion import poses
from trichord.shards.synthetic.scene import SPOTS, distance


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
def test_shapes_cover_their_geometric_area(shape: str, area: float) -> None:
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


def test_moves_and_circles_match_their_names() -> None:
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
    # So the set of frames is the same, and only their order distinguishes the two classes.
    means = [np.sort(frames.reshape(len(frames), -1).mean(1)) for frames in (frames_THWC, reversed_THWC)]
    assert np.allclose(*means, atol=0.05)
    assert Counter(event.action for event in backwards.events) == Counter(
        ACTIONS[event.action].reverse for event in plan.events
    )
    again = reverse(backwards)
    assert [event.action for event in again.events] == [event.action for event in plan.events]
    assert again.origin_x == pytest.approx(plan.origin_x)


def test_enough_actions_differ_only_in_the_order_of_frames() -> None:
    assert all(ACTIONS[ACTIONS[name].reverse].reverse == name for name in CLASSES)
    assert sum(ACTIONS[name].reverse != name for name in CLASSES) == 12


@pytest.mark.parametrize("action", CLASSES)
def test_motion_happens_within_the_interval(action: str) -> None:
    frames_THWC = render(stage(action)).frames_THWC.astype(int)
    changed = (
        np.flatnonzero(np.abs(np.diff(frames_THWC, axis=0)).max((1, 2, 3)) > 2) + 1
    )  # frames that differ from the previous one
    slack = 12 if action == "blinking" else 3  # a blinking object is visible for a while before it disappears
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


def test_plain_data_set_shows_only_its_objects() -> None:
    rules = SyntheticRules(frame_sizes=((64, 64),), fps=(12,), max_distractors=0, is_plain=True)
    corners = []
    for number in range(8):
        plan = describe_clip(3, number, rules)
        frames_THWC = render(plan).frames_THWC
        assert plan == replace(plan, group=replace(plan.group, background="plain", tones=4))
        corners.append(frames_THWC[:, [0, 0, -1, -1], [0, -1, 0, -1]].astype(int))
    for corner in corners:  # the lighting of a frame is uniform; only its noise may differ
        assert np.abs(np.median(corner, axis=0) - np.median(corners[0], axis=0)).max() <= 6
    textured = describe_clip(3, 0, rules.model_copy(update={"is_plain": False}))
    assert textured.events == describe_clip(3, 0, rules).events  # everything else is drawn as before
