"""Intervals are the percentiles of sets drawn with replacement, and have their nominal coverage."""

from __future__ import annotations

import numpy as np
import pytest

from trichord.core.seeds import generator
from trichord.finetune.evaluation.bootstrap import Weights, intervals
from trichord.finetune.tasks.classification.metrics import Values


def test_intervals_equal_percentiles_of_sets_drawn_one_by_one() -> None:
    values_N = np.random.default_rng(0).random((40, 2))

    def figures(weights_RN: Weights) -> dict[str, Values]:
        return {"mean": weights_RN @ values_N[:, 0] / 40, "both": weights_RN @ values_N / 40}

    found = intervals(figures, 40, seed=7, draws=130)
    rng, means = generator(7, "bootstrap"), []
    for _ in range(130):
        often_N = rng.multinomial(40, np.full(40, 1 / 40))
        means.append(np.mean(np.repeat(values_N, often_N, axis=0), axis=0))
    np.testing.assert_allclose(found["both"], np.percentile(means, (2.5, 97.5), axis=0))
    np.testing.assert_allclose(found["mean"], np.percentile(means, (2.5, 97.5), axis=0)[:, 0])


def test_intervals_have_about_their_nominal_coverage() -> None:
    rng, held = np.random.default_rng(1), 0
    for seed in range(60):
        values_N = rng.exponential(size=80)
        low, high = intervals(lambda weights_RN, own=values_N: {"m": weights_RN @ own / 80}, 80, seed, 200)["m"]  # type: ignore[misc]
        held += low <= 1.0 <= high
    assert 50 <= held <= 60


def test_sets_without_a_class_are_excluded_and_without_any_set_there_is_no_interval() -> None:
    def figures(weights_RN: Weights) -> dict[str, Values]:
        return {"x": np.where(weights_RN[:, :1] > 0, [[0.5, np.nan]], np.nan)}

    (low, high) = intervals(figures, 3, seed=0, draws=20)["x"]
    assert (low[0], high[0]) == pytest.approx((0.5, 0.5)) and np.isnan([low[1], high[1]]).all()
