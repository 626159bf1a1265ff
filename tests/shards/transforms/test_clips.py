"""Clips: the frames of each kind of clip, against indices computed by hand and naive loops over frame times."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from trichord.core.errors import Cause, SampleError
from trichord.core.seeds import generator
from trichord.shards.transforms.clip_specs import ClipSpec, DenseWindow, FullVideo, Segments, SlidingWindows, SvtWindow
from trichord.shards.transforms.clips import Clip

EVERY_KIND = (
    Segments(frames=8),
    Segments(frames=8, placement="centre", clips=2),
    DenseWindow(frames=8, stride_frames=4),
    DenseWindow(frames=8, stride_frames=4, placement="uniform", clips=3, short="loop"),
    DenseWindow(frames=8, clip_seconds=2.0, clips=2),
    DenseWindow(frames=8, clip_seconds=2.0, placement="uniform", clips=4, short="stretch"),
    FullVideo(frames=16),
    FullVideo(frames_per_second=5, max_frames=20),
    SlidingWindows(frames=4, clip_seconds=1.0, stride_seconds=0.5),
    SvtWindow(window_seconds=3.0),
)


def steady(frames: int, fps: float = 30.0) -> tuple[np.ndarray, float]:
    return np.arange(frames) / fps, frames / fps


def plan(spec: ClipSpec, times_s: np.ndarray, duration_s: float, seed: int = 0) -> list[Clip]:
    return spec.plan(times_s, duration_s, generator(seed, "clips"))


def shown_at(times_s: np.ndarray, instant_s: float) -> int:
    """The frame shown at a time, by a loop over all frames."""
    shown = 0
    for index, time_s in enumerate(times_s):
        if time_s <= instant_s + 1e-6:
            shown = index
    return shown


def test_centres_of_segments_follow_the_test_rule_of_tsn() -> None:
    (clip,) = plan(Segments(frames=8, placement="centre"), *steady(300))
    tick = 300 / 8
    assert clip.indices.tolist() == [int(tick / 2 + tick * number) for number in range(8)]
    assert (clip.start_s, clip.end_s) == (0.0, 10.0)


def test_several_centre_clips_interleave() -> None:
    clips = plan(Segments(frames=4, placement="centre", clips=2), *steady(80, 10))
    assert [clip.indices.tolist() for clip in clips] == [[5, 25, 45, 65], [15, 35, 55, 75]]


def test_random_segments_stay_inside_and_reach_every_frame() -> None:
    times_s, duration_s = steady(40)
    seen: set[int] = set()
    for seed in range(300):
        (clip,) = plan(Segments(frames=4), times_s, duration_s, seed)
        assert (clip.indices // 10).tolist() == [0, 1, 2, 3]
        seen.update(clip.indices.tolist())
    assert seen == set(range(40))


def test_segments_of_a_short_video_repeat_frames() -> None:
    (clip,) = plan(Segments(frames=8, placement="centre"), *steady(3))
    assert clip.indices.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]


def test_window_in_source_frames() -> None:
    spec = DenseWindow(frames=4, stride_frames=10, placement="uniform", clips=3)
    clips = plan(spec, *steady(91))
    assert [clip.indices.tolist() for clip in clips] == [[0, 10, 20, 30], [30, 40, 50, 60], [60, 70, 80, 90]]
    assert [(clip.start_s, round(clip.end_s, 6)) for clip in clips] == [
        (0.0, round(40 / 30, 6)),
        (1.0, round(70 / 30, 6)),
        (2.0, round(91 / 30, 6)),
    ]


def test_single_uniform_window_is_centred() -> None:
    (clip,) = plan(DenseWindow(frames=3, stride_frames=2, placement="uniform"), *steady(25))
    assert clip.indices.tolist() == [10, 12, 14]
    (clip,) = plan(DenseWindow(frames=5, clip_seconds=1.0, placement="uniform"), *steady(50, 10))
    assert (clip.start_s, clip.end_s, clip.indices.tolist()) == (2.0, 3.0, [20, 22, 24, 26, 28])


def test_random_window_starts_are_all_reached_and_fit() -> None:
    times_s, duration_s = steady(12)
    starts = []
    for seed in range(400):
        (clip,) = plan(DenseWindow(frames=4, stride_frames=2), times_s, duration_s, seed)
        assert np.diff(clip.indices).tolist() == [2, 2, 2]
        starts.append(int(clip.indices[0]))
    counts = np.bincount(starts, minlength=6)
    assert len(counts) == 6
    assert counts.min() > 400 / 6 * 0.6


@pytest.mark.parametrize(
    ("short", "by_frames", "by_seconds"),
    [
        ("clamp", [0, 2, 4, 4, 4], [0, 2, 4, 4, 4]),
        ("loop", [0, 2, 4, 1, 3], [0, 2, 4, 1, 3]),
        ("stretch", [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
    ],
)
def test_video_shorter_than_the_window(short: str, by_frames: list[int], by_seconds: list[int]) -> None:
    times_s, duration_s = steady(5, 10)
    adapter: TypeAdapter[ClipSpec] = TypeAdapter(ClipSpec)
    spec = adapter.validate_python({"kind": "window", "frames": 5, "stride_frames": 2, "short": short})
    assert plan(spec, times_s, duration_s)[0].indices.tolist() == by_frames
    spec = adapter.validate_python({"kind": "window", "frames": 5, "clip_seconds": 1.0, "short": short})
    (clip,) = plan(spec, times_s, duration_s)
    assert clip.indices.tolist() == by_seconds
    assert (clip.start_s, clip.end_s) == (0.0, 0.5)


def test_window_as_long_as_the_video_is_the_same_under_every_rule() -> None:
    for short in ("clamp", "loop", "stretch"):
        (clip,) = plan(DenseWindow(frames=3, stride_frames=2, short=short), *steady(5))
        assert clip.indices.tolist() == [0, 2, 4]


def test_full_video_reaches_first_and_last_frame() -> None:
    (clip,) = plan(FullVideo(frames=5), *steady(101))
    assert clip.indices.tolist() == [0, 25, 50, 75, 100]
    (clip,) = plan(FullVideo(frames_per_second=10), *steady(90))
    assert clip.indices.tolist() == list(range(0, 90, 3))
    (clip,) = plan(FullVideo(frames_per_second=10, max_frames=6), *steady(90))
    assert clip.indices.tolist() == [0, 15, 30, 45, 60, 75]


def test_sliding_windows_follow_the_charades_evaluation() -> None:
    """Windows of 6 s every 3 s over 10 s at 30 fps; frames are a truncated linspace over those of the window."""
    clips = plan(SlidingWindows(frames=8, clip_seconds=6.0, stride_seconds=3.0), *steady(300))
    bounds = [(0, 180), (90, 270), (180, 300), (270, 300)]
    assert [(clip.start_s, clip.end_s) for clip in clips] == [(0.0, 6.0), (3.0, 9.0), (6.0, 10.0), (9.0, 10.0)]
    for clip, (first, after) in zip(clips, bounds, strict=True):
        assert clip.indices.tolist() == [int(x) for x in np.linspace(first, after - 1, 8)]


def test_sliding_windows_do_not_overlap_by_default_and_none_is_empty() -> None:
    clips = plan(SlidingWindows(frames=2, clip_seconds=2.0), *steady(60))
    assert [(clip.start_s, clip.end_s) for clip in clips] == [(0.0, 2.0)]
    lone = plan(SlidingWindows(frames=2, clip_seconds=1.0), np.array([0.0, 0.1]), 2.5)
    assert [clip.indices.tolist() for clip in lone] == [[0, 1], [1, 1], [1, 1]]


def test_variable_frame_rate_is_sampled_by_time() -> None:
    """Ten frames in the first second, then one for four seconds: sampling by index would remain in the first second."""
    times_s = np.concatenate([np.arange(10) / 10, [1.0]])
    (clip,) = plan(Segments(frames=5, placement="centre"), times_s, 5.0)
    assert clip.indices.tolist() == [5, 10, 10, 10, 10]
    (clip,) = plan(DenseWindow(frames=4, clip_seconds=2.0, placement="uniform"), times_s, 2.0)
    assert clip.indices.tolist() == [0, 5, 10, 10]


def test_random_variable_rates_against_a_naive_walk() -> None:
    rng = np.random.default_rng(3)
    for trial in range(20):
        times_s = np.cumsum(rng.exponential(0.05, size=rng.integers(1, 60)))
        times_s -= times_s[0]
        duration_s = float(times_s[-1] + 0.04)
        (clip,) = plan(Segments(frames=6, placement="centre"), times_s, duration_s)
        assert clip.indices.tolist() == [shown_at(times_s, (k + 0.5) * duration_s / 6) for k in range(6)]
        (clip,) = plan(DenseWindow(frames=6, clip_seconds=1.0), times_s, duration_s, trial)
        assert clip.indices.tolist() == [shown_at(times_s, clip.start_s + k / 6) for k in range(6)]
        assert 0 <= clip.start_s <= clip.end_s <= duration_s + 1e-9


def test_svt_sets_at_a_steady_rate_are_the_papers_index_rule() -> None:
    """Window of 256 source frames at 30 fps: globals over [0, L-5] and [5, L], locals over 32 consecutive frames."""
    spec = SvtWindow()
    times_s, duration_s = steady(256)
    clips = plan(spec, times_s, duration_s)
    assert [len(clip.indices) for clip in clips] == [8, 16, 2, 2, 4, 4, 8, 8, 16, 16]
    assert clips[0].indices.tolist() == [int(x + 1e-9) for x in np.linspace(0, 251, 8)]
    assert clips[1].indices.tolist() == [min(int(x + 1e-9), 255) for x in np.linspace(5, 256, 16)]
    for clip in clips[2:]:
        assert clip.end_s - clip.start_s == pytest.approx(256 / 30 / 8)
        assert 31 <= clip.indices[-1] - clip.indices[0] + 1 <= 33
        assert np.all(np.diff(clip.indices) >= 1)


def test_svt_window_moves_and_holds_all_its_views() -> None:
    times_s, duration_s = steady(900)
    starts, locals_seen = [], []
    for seed in range(60):
        clips = plan(SvtWindow(), times_s, duration_s, seed)
        begin_s, end_s = clips[0].start_s, clips[1].end_s
        assert end_s - begin_s == pytest.approx(8 * 32 / 30)
        assert all(begin_s - 1e-9 <= clip.start_s <= clip.end_s <= end_s + 1e-9 for clip in clips)
        starts.append(begin_s)
        locals_seen.append((clips[2].start_s - begin_s) / (end_s - begin_s))
    assert min(starts) < 3 and max(starts) > 18
    assert min(locals_seen) < 0.1 and 0.75 < max(locals_seen) <= 0.875


@pytest.mark.parametrize("spec", EVERY_KIND, ids=lambda spec: spec.kind)
@pytest.mark.parametrize("frames", [1, 2, 3, 7, 200])
def test_every_kind_accepts_any_length(spec: ClipSpec, frames: int) -> None:
    times_s, duration_s = steady(frames)
    clips = plan(spec, times_s, duration_s)
    expected = spec.clip_count
    assert expected is None or len(clips) == expected
    for clip in clips:
        assert clip.indices.dtype == np.int64
        assert len(clip.indices) > 0
        assert clip.indices.min() >= 0 and clip.indices.max() < frames
        assert 0 <= clip.start_s <= clip.end_s <= duration_s + 1e-9
    assert spec.frame_counts in (set(), {len(clip.indices) for clip in clips})
    assert len(plan(spec, np.array([0.0]), 0.0)) >= 1


@pytest.mark.parametrize("spec", EVERY_KIND, ids=lambda spec: spec.kind)
def test_a_plan_depends_on_the_generator_alone(spec: ClipSpec) -> None:
    times_s, duration_s = steady(200)
    first, again = plan(spec, times_s, duration_s, 5), plan(spec, times_s, duration_s, 5)
    assert [clip.indices.tolist() for clip in first] == [clip.indices.tolist() for clip in again]
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_a_video_without_frames_is_a_bad_sample() -> None:
    with pytest.raises(SampleError) as caught:
        plan(Segments(frames=4), np.zeros(0), 1.0)
    assert caught.value.cause is Cause.NO_VIDEO


def test_settings_are_checked() -> None:
    with pytest.raises(ValidationError, match="exactly one of stride_frames and clip_seconds"):
        DenseWindow(frames=4)
    with pytest.raises(ValidationError, match="exactly one of frames and frames_per_second"):
        FullVideo(frames=4, frames_per_second=2)
    with pytest.raises(ValidationError, match="extra_forbidden"):
        TypeAdapter(ClipSpec).validate_python({"kind": "segments", "frames": 4, "stride": 2})
