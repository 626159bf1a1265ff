"""Sounds of the synthetic data set: timbre depends on the object, the contour on its action."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.shards.synthetic.stage import level, loudest_hz, sound_of, stage
from trichord.shards.synthetic import (
    CLASSES,
    SHAPES,
    SIZES,
    reverse,
)


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
        offset_s = 1 / 24  # frame k is drawn at k/24 s, so the axis of symmetry is half a frame before the middle
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


def test_only_background_noise_outside_events() -> None:
    plan = stage("shaking")
    plan = replace(plan, group=replace(plan.group, noise_db=-45.0, noise_slope=0.5))
    sound = sound_of(plan)
    assert len(sound) == 4 * 16000 and sound.dtype == np.float32 and np.abs(sound).max() < 1
    for silence in (sound[: 16000 - 10], sound[3 * 16000 + 10 :]):
        assert 20 * math.log10(float(np.sqrt(np.mean(silence**2)))) == pytest.approx(-45, abs=1.5)
    assert level(sound, 16000, 2.0, 1.5) > 10 ** (-30 / 20)
