"""The metrics of Charades equal a naive implementation of the official rules, with ties and videos without actions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from trichord.finetune.tasks.classification import charades
from trichord.shards.record import Interval, RawSample

Rows = dict[str, list[float]]


def official_precision(submitted: list[tuple[float, bool]]) -> float:
    """Sort in descending order with stable ties, as MATLAB does; then go down the list."""
    places = sorted(range(len(submitted)), key=lambda place: -submitted[place][0])
    right, total = 0, 0.0
    for rank, place in enumerate(places, 1):
        if submitted[place][1]:
            right += 1
            total += right / rank
    return total / right


def official_classification(scores: Rows, actions: dict[str, set[int]], classes: int) -> tuple[float, float]:
    """Follow Charades_v1_classify.m: only videos with actions get their row of scores."""
    precisions, positives = [], []
    for label in range(classes):
        submitted = []
        for video, row in scores.items():
            score = row[label] if actions[video] else float("-inf")
            submitted.append((score, label in actions[video]))
        positives.append(sum(truth for _, truth in submitted))
        precisions.append(official_precision(submitted))
    weighted = sum(p * n for p, n in zip(precisions, positives, strict=True)) / sum(positives)
    return sum(precisions) / classes, weighted


def drawn(seed: int, levels: int, videos: int = 24, classes: int = 3) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    truths_NK = rng.random((videos, classes)) < 0.35
    truths_NK[::5] = False
    truths_NK[1] = True  # every class occurs
    return rng.integers(levels, size=(videos, classes)) / levels, truths_NK


@pytest.mark.parametrize("levels", [3, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_classification_equals_the_official_one(seed: int, levels: int) -> None:
    scores_NK, truths_NK = drawn(seed, levels)
    names = [f"V{number:02d}" for number in range(len(scores_NK))]
    found = charades.classification(scores_NK, truths_NK)(np.ones((1, len(names)), dtype=np.int64))
    expected = official_classification(
        dict(zip(names, scores_NK.tolist(), strict=True)),
        {name: set(np.flatnonzero(row)) for name, row in zip(names, truths_NK, strict=True)},
        classes=3,
    )
    assert (found["mAP_charades"][0], found["wAP_charades"][0]) == pytest.approx(expected)
    louder = scores_NK + ~truths_NK.any(axis=1, keepdims=True)  # the scores of a video without actions do not matter
    again = charades.classification(louder, truths_NK)(np.ones((1, len(names)), dtype=np.int64))
    assert again["mAP_charades"] == found["mAP_charades"]


def test_localisation_equals_the_official_one() -> None:
    rng = np.random.default_rng(5)
    videos = [
        (10.0, [Interval(label=0, start=0.4, end=2.0), Interval(label=1, start=3.1, end=99.0)]),
        (7.5, [Interval(label=0, start=0.3, end=0.6), Interval(label=0, start=0.5, end=3.0)]),
        (5.0, []),  # it counts here
    ]
    scores_TK = rng.integers(4, size=(75, 2)) / 4
    truths = []
    for length, intervals in videos:
        for j in range(1, 26):
            t = (j - 1) / 25 * length
            truths.append([any(i.label == k and i.start <= t <= i.end for i in intervals) for k in range(2)])
    parts = [charades.truths_at(charades.instants(length), intervals, 2) for length, intervals in videos]
    np.testing.assert_array_equal(np.concatenate(parts), truths)
    expected = [
        official_precision([(float(s[k]), t[k]) for s, t in zip(scores_TK, truths, strict=True)]) for k in range(2)
    ]
    found = charades.localisation(scores_TK, np.array(truths))(np.ones((1, 3), dtype=np.int64))
    assert found["localisation_mAP_charades"][0] == pytest.approx(np.mean(expected))


def test_instants_equal_the_official_ones_to_the_last_bit() -> None:
    for hundredths in range(1, 4000):  # lengths and ends of actions have two decimals
        length = hundredths / 100
        assert charades.instants(length).tolist() == [(j - 1) / 25 * length for j in range(1, 26)]


def test_resampled_sets_equal_sets_of_copies_in_file_order() -> None:
    scores_NK, truths_NK = drawn(9, levels=4)
    weights_RN = np.random.default_rng(0).multinomial(24, np.full(24, 1 / 24), size=4)
    found = charades.precisions_in_order(scores_NK, truths_NK)(weights_RN)
    for row, weights_N in enumerate(weights_RN):
        copies = [number for number, often in enumerate(weights_N) for _ in range(often)]
        for label in range(3):
            submitted = [(scores_NK[number, label], bool(truths_NK[number, label])) for number in copies]
            has_any = any(truth for _, truth in submitted)
            expected = official_precision(submitted) if has_any else np.nan
            assert found[row, label] == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"actions": "c002 1.00 40.20;c000 0 3.5", "length": "30.5"}, ([(2, 1.0, 40.2), (0, 0.0, 3.5)], 30.5)),
        ({"length": "12.0"}, ([], 12.0)),  # a video without actions
        ({"actions": "runs, jumps", "length": "long"}, ([(1, 0.5, 2.0)], 9.0)),  # the columns of another data set
        ({"actions": "c003 0 1", "length": "30"}, ([(1, 0.5, 2.0)], 9.0)),  # a class that there is not
        ({"actions": f"c002 0 {'9' * 400}", "length": "30"}, ([(1, 0.5, 2.0)], 9.0)),
        ({"actions": "c002 0 1", "length": "nan"}, ([(1, 0.5, 2.0)], 9.0)),
        ({}, ([(1, 0.5, 2.0)], 9.0)),
    ],
)
def test_official_intervals_take_precedence_over_those_cut_to_the_clip(
    extra: dict[str, str], expected: tuple[list[tuple[int, float, float]], float]
) -> None:
    document = {"intervals": [{"label": 1, "start": 0.5, "end": 2.0}], "duration": 9.0, "extra": extra}
    annotation = RawSample("k", "s", {"json": json.dumps(document).encode()}).annotation()
    found, length_s = charades.official_times(annotation, 8.96, 3)
    assert ([(each.label, each.start, each.end) for each in found], length_s) == expected
