"""Metrics of scores: top-1 and top-5 for one class per clip, average precision for several, and calibration.

Average precision is the sum over ranks of precision times gained recall, without interpolation; clips with equal
scores count as one rank, so their order does not matter. A class without clips has none and is left out of the mean.
The expected calibration error is that of Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3, with
15 bins of equal width, over the highest probability of each clip for exclusive classes, else over all probabilities.
All metrics are computed for sets in which each clip occurs any number of times, as intervals need (`bootstrap.py`).
Legend: N clips, K classes, R sets, G groups of equal scores, E predictions of a clip, b bins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trichord.finetune.evaluation.bootstrap import Figures, Weights, once

Scores = NDArray[np.floating]
Truths = NDArray[np.bool_]
Values = NDArray[np.float64]
TOP = 5
EACH_CLASS = "each class"


def ranks_of_truth(scores_NK: Scores, labels_N: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return how many classes precede each clip's own; of equal scores the lower class number comes first."""
    own_N1 = np.take_along_axis(scores_NK, labels_N[:, None], axis=1)
    is_lower_number_NK = np.arange(scores_NK.shape[1])[None] < labels_N[:, None]
    stands_before_NK = (scores_NK > own_N1) | ((scores_NK == own_N1) & is_lower_number_NK)
    ranks_N: NDArray[np.int64] = stands_before_NK.sum(axis=1)
    return ranks_N


def average_precision(scores_N: Scores, truths_N: Truths) -> float | None:
    """Return the average precision of one class, None if no clip has it."""
    found = float(average_precisions(scores_N[:, None], truths_N[:, None])(once(len(scores_N)))[0, 0])
    return None if np.isnan(found) else found


def average_precisions(scores_NK: Scores, truths_NK: Truths) -> Callable[[Weights], Values]:
    """Sort once; return the function of each class's average precision in each set, RK, NaN where no clip has it."""
    in_order = []
    for scores_N, truths_N in zip(scores_NK.T, truths_NK.T, strict=True):
        order_N = np.argsort(-scores_N, kind="stable")
        ends_G = np.flatnonzero(np.append(np.diff(scores_N[order_N]) != 0, True))
        in_order.append((order_N, truths_N[order_N], ends_G))

    def of(weights_RN: Weights) -> Values:
        return np.stack([_average_precision(weights_RN[:, order_N], *rest) for order_N, *rest in in_order], axis=1)

    return of


def _average_precision(weights_RN: Weights, truths_N: Truths, ends_G: NDArray[np.int64]) -> Values:
    clips_RG = weights_RN.cumsum(axis=1)[:, ends_G]
    right_RG = (weights_RN * truths_N).cumsum(axis=1)[:, ends_G]
    gained_RG = np.diff(right_RG, axis=1, prepend=0)
    found_R = (gained_RG * right_RG / np.maximum(clips_RG, 1)).sum(axis=1)
    return divided(found_R, right_RG[:, -1])


def divided(parts: NDArray[np.number], wholes: NDArray[np.number]) -> Values:
    """Divide, with NaN where the divisor is 0."""
    found: Values = np.divide(parts, wholes, out=np.full(np.shape(parts), np.nan), where=wholes > 0)
    return found


def mean_of_classes(values_RK: Values) -> Values:
    """Return each set's mean over the classes that have a value."""
    return divided(np.nansum(values_RK, axis=1), (~np.isnan(values_RK)).sum(axis=1))


def figures_of(scores_NK: Scores, truths_NK: Truths, is_multi_label: bool) -> Figures:
    """Return the function of the metrics of a set, with a column for each class under EACH_CLASS."""
    if is_multi_label:
        precisions = average_precisions(scores_NK, truths_NK)

        def of_several(weights_RN: Weights) -> dict[str, Values]:
            precision_RK = precisions(weights_RN)
            return {"mAP": mean_of_classes(precision_RK), EACH_CLASS: precision_RK}

        return of_several
    labels_N, classes = truths_NK.argmax(axis=1), truths_NK.shape[1]
    ranks_N = ranks_of_truth(scores_NK, labels_N)
    is_of_NK = (np.arange(classes) == labels_N[:, None]).astype(np.float64)  # float, for fast matrix products

    def of_one(weights_RN: Weights) -> dict[str, Values]:
        clips_R = weights_RN.sum(axis=1)
        right_RN = (weights_RN * (ranks_N == 0)).astype(np.float64)
        recall_RK = divided(right_RN @ is_of_NK, weights_RN.astype(np.float64) @ is_of_NK)
        found = {"top1": divided(weights_RN @ (ranks_N == 0), clips_R)}
        if classes > TOP:
            found[f"top{TOP}"] = divided(weights_RN @ (ranks_N < TOP), clips_R)
        return {**found, "top1_mean_of_classes": mean_of_classes(recall_RK), EACH_CLASS: recall_RK}

    return of_one


def measure(scores_NK: Scores, truths_NK: Truths, is_multi_label: bool) -> tuple[dict[str, object], list[float | None]]:
    """Return the metrics by name, and the metric of each class."""
    metrics = figures_of(scores_NK, truths_NK, is_multi_label)(once(len(scores_NK)))
    per_class = known(metrics[EACH_CLASS][0])
    found: dict[str, object] = {name: known(values)[0] for name, values in metrics.items() if name != EACH_CLASS}
    if is_multi_label:
        found["classes_with_clips"] = sum(each is not None for each in per_class)
    return found, per_class


def known(values_X: Values) -> list[float | None]:
    """Return plain numbers, with None for NaN."""
    return [None if np.isnan(each) else each for each in values_X.tolist()]


def class_rows(
    names: Sequence[str], truths_NK: Truths, per_class: Sequence[float | None], is_multi_label: bool
) -> list[dict[str, object]]:
    """Return a row for each class."""
    measured, counts_K = "average_precision" if is_multi_label else "top1", truths_NK.sum(axis=0)
    return [
        {"class": name, "clips": int(count), measured: figure}
        for name, count, figure in zip(names, counts_K, per_class, strict=True)
    ]


BINS = 15


@dataclass(frozen=True, eq=False)
class Reliability:
    """For each clip and bin: the number of predicted probabilities, their sum, and how many were true."""

    what: str  # what is counted
    counts_Nb: Values
    predicted_Nb: Values
    true_Nb: Values

    def means(self, weights_RN: Weights) -> tuple[Values, Values, Values]:
        """Return for each set and bin the count, the mean probability and the share that was true."""
        counts_Rb = weights_RN @ self.counts_Nb
        predicted_Rb, true_Rb = (divided(weights_RN @ each, counts_Rb) for each in (self.predicted_Nb, self.true_Nb))
        return counts_Rb, predicted_Rb, true_Rb

    def figures(self, weights_RN: Weights) -> dict[str, Values]:
        """Return each set's mean distance between probability and share, weighted by the bins' counts."""
        counts_Rb, predicted_Rb, true_Rb = self.means(weights_RN)
        distances_R = np.nansum(np.abs(predicted_Rb - true_Rb) * counts_Rb, axis=1)
        return {"calibration_error": divided(distances_R, counts_Rb.sum(axis=1))}

    @property
    def all(self) -> tuple[Values, Values, Values]:
        """The count, the mean probability and the share that was true of each bin, for the original set."""
        counts_1b, predicted_1b, true_1b = self.means(once(len(self.counts_Nb)))
        return counts_1b[0], predicted_1b[0], true_1b[0]


def reliability(scores_NK: Scores, truths_NK: Truths, is_multi_label: bool) -> Reliability:
    """Count predicted probabilities and truths by bins."""
    predicted_NE, is_true_NE = scores_NK.astype(np.float64), truths_NK
    if not is_multi_label:
        predicted_NE = predicted_NE.max(axis=1, keepdims=True)
        is_true_NE = (scores_NK.argmax(axis=1) == truths_NK.argmax(axis=1)).reshape(-1, 1)
    is_in_NEb = np.minimum((predicted_NE * BINS).astype(np.int64), BINS - 1)[..., None] == np.arange(BINS)
    counted = (np.ones_like(predicted_NE), predicted_NE, is_true_NE)
    sums = [(is_in_NEb * each[..., None]).sum(axis=1) for each in counted]
    return Reliability("clips and classes" if is_multi_label else "clips", *sums)
