"""Metrics equal other implementations and plain loops, where scores are tied as well."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, recall_score, top_k_accuracy_score

from finetune.metrics import average_precision, mean, ranks_of_truth, recall_per_class, top_k


@pytest.mark.parametrize("levels", [2, 3, 10, None])
@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_scikit_learns(seed: int, levels: int | None) -> None:
    rng = np.random.default_rng(seed)
    scores_N = rng.random(50) if levels is None else rng.integers(levels, size=50) / levels
    truths_N = rng.random(50) < 0.3
    assert average_precision(scores_N, truths_N) == pytest.approx(average_precision_score(truths_N, scores_N))


def test_average_precision_by_hand() -> None:
    scores_N, truths_N = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    assert average_precision(scores_N, truths_N) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert average_precision(np.zeros(4), truths_N) == 0.5  # all alike: what chance gives
    assert average_precision(scores_N, np.zeros(4, dtype=bool)) is None
    assert mean([0.5, None, 1.0]) == 0.75 and mean([None]) is None


def test_top_k_is_scikit_learns_and_of_equal_scores_the_lower_class_counts_first() -> None:
    rng = np.random.default_rng(0)
    scores_NK, labels_N = rng.random((200, 7)), rng.integers(7, size=200)
    ranks_N = ranks_of_truth(scores_NK, labels_N)
    for k in (1, 5):
        expected = top_k_accuracy_score(labels_N, scores_NK, k=k, labels=range(7))
        assert top_k(ranks_N, k) == pytest.approx(expected)
    tied_NK = rng.integers(3, size=(200, 7)).astype(float)
    for scores_K, label, rank in zip(tied_NK, labels_N, ranks_of_truth(tied_NK, labels_N), strict=True):
        order = sorted(range(7), key=lambda each, own=scores_K: (-own[each], each))  # type: ignore[misc]
        assert order.index(label) == rank
    assert np.array_equal(ranks_of_truth(tied_NK, labels_N) == 0, tied_NK.argmax(axis=1) == labels_N)


def test_recall_of_each_class_is_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    scores_NK, labels_N = rng.random((60, 4)), rng.integers(3, size=60)
    found = recall_per_class(ranks_of_truth(scores_NK, labels_N), labels_N, 4)
    expected = recall_score(labels_N, scores_NK.argmax(axis=1), labels=range(3), average=None)
    assert found[:3] == pytest.approx(list(expected)) and found[3] is None
