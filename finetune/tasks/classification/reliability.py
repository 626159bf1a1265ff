"""How far probabilities can be believed: of what is told with some probability, which share is true.

Expected calibration error as in Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3, with 15 bins
of equal width. Of classes that exclude each other the highest probability of each clip counts, of others every one.
Legend: N clips, K classes, E what was told of a clip, b bins, R sets in which each clip is any number of times.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trichord.finetune.bootstrap import Weights, once
from trichord.finetune.tasks.classification.metrics import Scores, Truths, Values, divided

BINS = 15


@dataclass(frozen=True, eq=False)
class Reliability:
    """For each clip and bin: how many probabilities were told, their sum, and how many of them came true."""

    what: str  # is counted
    counts_Nb: Values
    told_Nb: Values
    true_Nb: Values

    def means(self, weights_RN: Weights) -> tuple[Values, Values, Values]:
        """Give for each set and bin the count, the mean probability and the share that came true."""
        counts_Rb = weights_RN @ self.counts_Nb
        told_Rb, true_Rb = (divided(weights_RN @ each, counts_Rb) for each in (self.told_Nb, self.true_Nb))
        return counts_Rb, told_Rb, true_Rb

    def figures(self, weights_RN: Weights) -> dict[str, Values]:
        """Give each set's mean distance of both, each bin counting as often as it was told."""
        counts_Rb, told_Rb, true_Rb = self.means(weights_RN)
        distances_R = np.nansum(np.abs(told_Rb - true_Rb) * counts_Rb, axis=1)
        return {"calibration_error": divided(distances_R, counts_Rb.sum(axis=1))}

    @property
    def all(self) -> tuple[Values, Values, Values]:
        """Give for each bin the count, the mean probability and the share that came true, of each clip once."""
        counts_1b, told_1b, true_1b = self.means(once(len(self.counts_Nb)))
        return counts_1b[0], told_1b[0], true_1b[0]


def reliability(scores_NK: Scores, truths_NK: Truths, is_multi_label: bool) -> Reliability:
    """Put probabilities into bins."""
    told_NE, is_true_NE = scores_NK.astype(np.float64), truths_NK
    if not is_multi_label:
        told_NE = told_NE.max(axis=1, keepdims=True)
        is_true_NE = (scores_NK.argmax(axis=1) == truths_NK.argmax(axis=1)).reshape(-1, 1)
    is_in_NEb = np.minimum((told_NE * BINS).astype(np.int64), BINS - 1)[..., None] == np.arange(BINS)
    sums = [(is_in_NEb * each[..., None]).sum(axis=1) for each in (np.ones_like(told_NE), told_NE, is_true_NE)]
    return Reliability("clips and classes" if is_multi_label else "clips", *sums)
