"""Metrics equal other implementations and plain loops; weighted clips equal copies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, recall_score, top_k_accuracy_score

from trichord.finetune.tasks.classification.metrics import (
    EACH_CLASS,
    average_precision,
    figures_of,
    measure,
    ranks_of_truth,
    reliability,
)


@pytest.mark.parametrize("levels", [2, 3, 10, None])
@pytest.mark.parametrize("seed", range(4))
def test_average_precision_equals_scikit_learn(seed: int, levels: int | None) -> None:
    rng = np.random.default_rng(seed)
    scores_N = rng.random(50) if levels is None else rng.integers(levels, size=50) / levels
    truths_N = rng.random(50) < 0.3
    assert average_precision(scores_N, truths_N) == pytest.approx(average_precision_score(truths_N, scores_N))


def test_average_precision_by_hand() -> None:
    scores_N, truths_N = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    assert average_precision(scores_N, truths_N) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert average_precision(np.zeros(4), truths_N) == 0.5  # all equal: chance level
    assert average_precision(scores_N, np.zeros(4, dtype=bool)) is None
    several_NK = np.stack([truths_N, np.zeros(4, dtype=bool)], axis=1)
    metrics, per_class = measure(np.stack([scores_N, scores_N], axis=1), several_NK, is_multi_label=True)
    assert metrics == {"mAP": per_class[0], "classes_with_clips": 1} and per_class[1] is None


def test_top_k_equals_scikit_learn_and_ties_prefer_the_lower_class() -> None:
    rng = np.random.default_rng(0)
    scores_NK, labels_N = rng.random((200, 7)), rng.integers(7, size=200)
    metrics, _ = measure(scores_NK, one_hot(labels_N, 7), is_multi_label=False)
    for k in (1, 5):
        assert metrics[f"top{k}"] == pytest.approx(top_k_accuracy_score(labels_N, scores_NK, k=k, labels=range(7)))
    tied_NK = rng.integers(3, size=(200, 7)).astype(float)
    for scores_K, label, rank in zip(tied_NK, labels_N, ranks_of_truth(tied_NK, labels_N), strict=True):
        order = sorted(range(7), key=lambda each, own=scores_K: (-own[each], each))  # type: ignore[misc]
        assert order.index(label) == rank
    assert np.array_equal(ranks_of_truth(tied_NK, labels_N) == 0, tied_NK.argmax(axis=1) == labels_N)


def test_recall_of_each_class_equals_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    scores_NK, labels_N = rng.random((60, 4)), rng.integers(3, size=60)
    metrics, found = measure(scores_NK, one_hot(labels_N, 4), is_multi_label=False)
    expected = recall_score(labels_N, scores_NK.argmax(axis=1), labels=range(3), average=None)
    assert found[:3] == pytest.approx(list(expected)) and found[3] is None
    assert metrics["top1_mean_of_classes"] == pytest.approx(np.mean(expected)) and "top5" not in metrics


@pytest.mark.parametrize("is_multi_label", [True, False])
def test_resampled_set_equals_a_set_of_copies(is_multi_label: bool) -> None:
    rng = np.random.default_rng(2)
    scores_NK = rng.integers(4, size=(30, 6)) / 4
    truths_NK = rng.random((30, 6)) < 0.2 if is_multi_label else one_hot(rng.integers(6, size=30), 6)
    weights_RN = rng.multinomial(30, np.full(30, 1 / 30), size=5)
    found = figures_of(scores_NK, truths_NK, is_multi_label)(weights_RN)
    resampled = reliability(scores_NK, truths_NK, is_multi_label).figures(weights_RN)
    for row, weights_N in enumerate(weights_RN):
        copies_N = np.repeat(np.arange(30), weights_N)
        copied = scores_NK[copies_N], truths_NK[copies_N], is_multi_label
        metrics, per_class = measure(*copied)
        metrics.pop("classes_with_clips", None)
        assert {name: values[row] for name, values in found.items() if name != EACH_CLASS} == pytest.approx(metrics)
        assert found[EACH_CLASS][row] == pytest.approx(
            [np.nan if each is None else each for each in per_class], nan_ok=True
        )
        alone = reliability(*copied).figures(np.ones((1, 30), dtype=np.int64))
        assert resampled["calibration_error"][row] == pytest.approx(alone["calibration_error"][0])


@pytest.mark.parametrize("is_multi_label", [True, False])
def test_calibration_error_equals_a_loop(is_multi_label: bool) -> None:
    rng = np.random.default_rng(3)
    scores_NK = rng.dirichlet(np.ones(4), size=80)
    scores_NK[0] = [1.0, 0.0, 0.0, 0.0]
    truths_NK = rng.random((80, 4)) < scores_NK if is_multi_label else one_hot(rng.integers(4, size=80), 4)
    pairs = [
        (score, truth)
        for scores_K, truths_K in zip(scores_NK, truths_NK, strict=True)
        for score, truth in zip(scores_K, truths_K, strict=True)
        if is_multi_label or score == scores_K.max()
    ]
    expected = 0.0
    for number in range(15):
        inside = [pair for pair in pairs if min(int(pair[0] * 15), 14) == number]
        if inside:
            confidence, true = np.mean(inside, axis=0)
            expected += abs(confidence - true) * len(inside) / len(pairs)
    found = reliability(scores_NK, truths_NK, is_multi_label).figures(np.ones((1, 80), dtype=np.int64))
    assert found["calibration_error"][0] == pytest.approx(expected)


def one_hot(labels_N: NDArray[Any], classes: int) -> NDArray[np.bool_]:
    return np.asarray(np.arange(classes) == labels_N[:, None])
