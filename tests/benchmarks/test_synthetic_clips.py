"""The synthetic clips of the experiments: their classes equal the plan, and one object acts in each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.learning.synthetic_clips import DATA_SEED, FACTORS, RULES, make_shards, read_clips
from trichord.shards.synthetic import describe_clip, held_out, render

COUNT = 40


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("world"), COUNT)


def test_every_clip_is_read_once_with_its_planned_classes(root: Path) -> None:
    plans = [describe_clip(DATA_SEED, number, RULES) for number in range(COUNT)]
    for split in ("train", "test"):
        planned = []
        for plan in (each for each in plans if each.group.split == split):
            (event,) = plan.events
            named = {"shape": event.thing.shape, "colour": event.thing.colour, "action": event.action}
            is_held_out = (named["colour"], named["shape"], named["action"]) in held_out(DATA_SEED, RULES)
            planned.append((*(FACTORS[factor].index(name) for factor, name in named.items()), is_held_out))
        clips = read_clips(root / split, frames=4, size=32)
        assert clips.frames_NCTHW.shape == (len(planned), 3, 4, 32, 32)
        found = zip(*(clips.labels[factor].tolist() for factor in FACTORS), clips.held_out_N.tolist(), strict=True)
        assert sorted(found) == sorted(planned)


def test_labels_belong_to_their_frames(root: Path) -> None:
    clips = read_clips(root / "test", frames=4, size=64)
    plans = [describe_clip(DATA_SEED, number, RULES) for number in range(COUNT)]
    drawn = {
        plan.number: torch.from_numpy(render(plan).frames_THWC[[0, -1]]).float()
        for plan in plans
        if plan.group.split == "test"
    }
    for place, frames_CTHW in enumerate(clips.frames_NCTHW):
        ends_THWC = frames_CTHW[:, [0, -1]].permute(1, 2, 3, 0).float()
        number = min(drawn, key=lambda each: float((drawn[each] - ends_THWC).abs().mean()))
        assert plans[number].events[0].action == FACTORS["action"][clips.labels["action"][place]]


def test_no_distractors_and_no_held_out_combination_in_training(root: Path) -> None:
    assert not any(describe_clip(DATA_SEED, number, RULES).distractors for number in range(COUNT))
    assert not read_clips(root / "train", 2, 32).held_out_N.any()


def test_where_returns_the_chosen_clips(root: Path) -> None:
    clips = read_clips(root / "test", 2, 32)
    kept = clips.where(clips.held_out_N)
    assert 0 < len(kept.frames_NCTHW) < len(clips.frames_NCTHW)
    assert kept.held_out_N.all()
    assert torch.equal(kept.labels["shape"], clips.labels["shape"][clips.held_out_N])
