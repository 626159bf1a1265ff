"""The official metrics of Charades (Sigurdsson et al. 2016): the actions of a video, and those at 25 instants.

Charades_v1_classify.m and Charades_v1_localize.m sort scores in descending order, leave ties in the order of the file,
and take the precision at each true positive. Peculiarities: a video without actions cannot be a false positive in the
first, because its scores are never read, but counts in the second; an action includes both its ends, and instants begin
with the video and do not reach its end. For a class without positives theirs is NaN; here the class is left out.
Legend: N videos or instants, K classes, R sets in which each occurs any number of times (`finetune.bootstrap`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import numpy as np

from trichord.finetune.evaluation.bootstrap import Figures, Weights
from trichord.finetune.tasks.classification.metrics import Scores, Truths, Values, divided, mean_of_classes
from trichord.shards.record import Annotation, Interval

INSTANTS = 25
_NUMBER = r"[0-9]{1,9}(\.[0-9]{1,9})?"
_SECONDS = re.compile(_NUMBER)
_ACTION = re.compile(rf"c(?P<label>[0-9]{{3}}) (?P<start>{_NUMBER}) (?P<end>{_NUMBER})")


def classification(scores_NK: Scores, truths_NK: Truths) -> Figures:
    """Return the function of the mean over classes, and of the mean weighted by the number of videos of each class."""
    # At the end of the order they do not affect any precision.
    has_any_N = truths_NK.any(axis=1).reshape(-1, 1)
    precisions = precisions_in_order(np.where(has_any_N, scores_NK, -np.inf), truths_NK)

    def of(weights_RN: Weights) -> dict[str, Values]:
        precision_RK, positives_RK = precisions(weights_RN), weights_RN @ truths_NK
        weighted_R = divided(np.nansum(precision_RK * positives_RK, axis=1), positives_RK.sum(axis=1))
        return {"mAP_charades": mean_of_classes(precision_RK), "wAP_charades": weighted_R}

    return of


def localisation(scores_NK: Scores, truths_NK: Truths) -> Figures:
    """Return the function of the mean over classes for instants, those of a video consecutive; sets are of videos."""
    precisions = precisions_in_order(scores_NK, truths_NK)

    def of(weights_RN: Weights) -> dict[str, Values]:
        precision_RK = precisions(np.repeat(weights_RN, INSTANTS, axis=1))
        return {"localisation_mAP_charades": mean_of_classes(precision_RK)}

    return of


def precisions_in_order(scores_NK: Scores, truths_NK: Truths) -> Callable[[Weights], Values]:
    """Sort once; return the function of each class's average precision in each set, RK; sets must be of equal size."""
    orders = [np.argsort(-scores_N, kind="stable") for scores_N in scores_NK.T]

    def of_class(order_N: Weights, truths_N: Truths, weights_RN: Weights) -> Values:
        sets, clips = weights_RN.shape
        is_right_RN = np.repeat(np.tile(truths_N[order_N], sets), weights_RN[:, order_N].ravel()).reshape(sets, clips)
        right_RN = is_right_RN.cumsum(axis=1)
        precision_RN = right_RN / np.arange(1, clips + 1)
        return divided((precision_RN * is_right_RN).sum(axis=1), right_RN[:, -1])

    def of(weights_RN: Weights) -> Values:
        each = zip(orders, truths_NK.T, strict=True)
        return np.stack([of_class(order_N, truths_N, weights_RN) for order_N, truths_N in each], axis=1)

    return of


def instants(duration_s: float) -> Values:
    """Return the times at which a video is scored, bit for bit as in the official script: windows start there too."""
    return np.arange(INSTANTS, dtype=np.float64) / INSTANTS * duration_s


def truths_at(instants_T: Values, intervals: Iterable[Interval], classes: int) -> Truths:
    """Return which classes are active at each instant, TK."""
    truths_TK = np.zeros((len(instants_T), classes), dtype=np.bool_)
    for each in intervals:
        truths_TK[:, each.label] |= (each.start <= instants_T) & (instants_T <= each.end)
    return truths_TK


def official_times(annotation: Annotation, decoded_s: float, classes: int) -> tuple[tuple[Interval, ...], float]:
    """Return intervals and length from the official lists if the sample stores them, else the sample's own."""
    actions, length = (annotation.extra.get(name) for name in ("actions", "length"))
    entries = [_ACTION.fullmatch(entry) for entry in str(actions or "").split(";") if entry]
    found = [(int(each["label"]), float(each["start"]), float(each["end"])) for each in entries if each]
    is_official = len(found) == len(entries) and all(label < classes for label, _, _ in found)
    if not is_official or not isinstance(length, str) or _SECONDS.fullmatch(length) is None:
        # Columns of another data set with these names.
        return annotation.intervals, annotation.duration or decoded_s
    return tuple(Interval(label=label, start=start, end=end) for label, start, end in found), float(length)
