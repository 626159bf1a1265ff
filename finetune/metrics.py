"""How right scores are: top-1 and top-5 where a clip has one class, average precision where it may have several.

Average precision is the sum over ranks of precision times gained recall, without interpolation; clips with the same
score come together, so that their order cannot matter. A class that no clip has gets none, and no say in the mean.
Legend: N clips, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating]
Truths = NDArray[np.bool_]
TOP = 5


def ranks_of_truth(scores_NK: Scores, labels_N: NDArray[np.integer]) -> NDArray[np.int64]:
    """Say how many classes stand before each clip's own; of equal scores the lower class number comes first."""
    own_N1 = np.take_along_axis(scores_NK, labels_N[:, None], axis=1)
    is_lower_number_NK = np.arange(scores_NK.shape[1])[None] < labels_N[:, None]
    stands_before_NK = (scores_NK > own_N1) | ((scores_NK == own_N1) & is_lower_number_NK)
    ranks_N: NDArray[np.int64] = stands_before_NK.sum(axis=1)
    return ranks_N


def top_k(ranks_N: NDArray[np.int64], k: int) -> float:
    """Give the share of clips whose class is among the k with the highest scores."""
    return float(np.mean(ranks_N < k))


def recall_per_class(ranks_N: NDArray[np.int64], labels_N: NDArray[np.integer], classes: int) -> list[float | None]:
    """Give for each class the share of its clips that are told right; None where there are no clips."""
    right_K = np.bincount(labels_N, weights=ranks_N == 0, minlength=classes)
    counts_K = np.bincount(labels_N, minlength=classes)
    return [float(right / count) if count else None for right, count in zip(right_K, counts_K, strict=True)]


def average_precision(scores_N: Scores, truths_N: Truths) -> float | None:
    """Give the average precision of one class; None where no clip has it."""
    positives = int(truths_N.sum())
    if not positives:
        return None
    order_N = np.argsort(-scores_N, kind="stable")
    sorted_N, right_N = scores_N[order_N], np.cumsum(truths_N[order_N], dtype=np.float64)
    ends = np.flatnonzero(np.append(np.diff(sorted_N) != 0, True))  # of stretches of equal scores
    right = right_N[ends]
    precision, gained = right / (ends + 1), np.diff(right, prepend=0.0) / positives
    return float(np.sum(precision * gained))


def mean(figures: list[float | None]) -> float | None:
    """Give the mean of those that there are."""
    found = [figure for figure in figures if figure is not None]
    return float(np.mean(found)) if found else None


def measure(scores_NK: Scores, truths_NK: Truths, is_multi_label: bool) -> tuple[dict[str, object], list[float | None]]:
    """Give the metrics of classes that exclude each other or do not, and the figure of each class."""
    if is_multi_label:
        precisions = [average_precision(scores_NK[:, k], truths_NK[:, k]) for k in range(truths_NK.shape[1])]
        with_clips = sum(each is not None for each in precisions)
        return {"mAP": mean(precisions), "classes_with_clips": with_clips}, precisions
    labels_N, classes = truths_NK.argmax(axis=1), truths_NK.shape[1]
    ranks_N = ranks_of_truth(scores_NK, labels_N)
    recalls = recall_per_class(ranks_N, labels_N, classes)
    metrics: dict[str, object] = {"top1": top_k(ranks_N, 1), "top1_mean_of_classes": mean(recalls)}
    if classes > TOP:
        metrics[f"top{TOP}"] = top_k(ranks_N, TOP)
    return metrics, recalls


def class_rows(
    names: Sequence[str], truths_NK: Truths, per_class: Sequence[float | None], is_multi_label: bool
) -> list[dict[str, object]]:
    """Give a row for each class."""
    measured, counts_K = "average_precision" if is_multi_label else "top1", truths_NK.sum(axis=0)
    return [
        {"class": name, "clips": int(count), measured: figure}
        for name, count, figure in zip(names, counts_K, per_class, strict=True)
    ]
