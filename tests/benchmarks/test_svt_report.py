"""The report of the SVT experiment, with expected values computed by hand."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.learning.svt import HELD_OUT, LABELLED, PIXELS, SEEN, UNTRAINED, Finding, ProbedClips, SeedResult
from benchmarks.learning.svt_report import accuracy_rows, check_goals, curve_rows, figure, most_common_share
from benchmarks.learning.synthetic_clips import Clips


def make_result(seed: int, svt: float, untrained: float, pixels: float) -> SeedResult:
    values = {"svt": svt, UNTRAINED: untrained, PIXELS: pixels, LABELLED: 0.9}
    found = tuple(
        Finding(features, factor, clips, knn=value, linear=value / 2)
        for features, value in values.items()
        for factor in ("shape", "action")
        for clips in (SEEN, HELD_OUT)
    )
    curve = tuple((step, Finding("svt", "shape", SEEN, svt * step, 0.0)) for step in (1, 2))
    return SeedResult({"seed": seed}, found, curve, 1.0, 1.0)


RESULTS = [make_result(0, 0.40, 0.20, 0.30), make_result(1, 0.50, 0.22, 0.30), make_result(2, 0.45, 0.18, 0.30)]


def test_figure_is_mean_and_range_over_seeds() -> None:
    found = figure(RESULTS, "svt", "action", SEEN, "knn")
    assert (round(found.mean, 9), round(found.spread, 9)) == (0.45, 0.10)
    assert str(found) == "45.0 ± 5.0"


def test_goal_is_met_only_by_more_than_the_larger_spread() -> None:
    met = {(check.goal, check.probe): check.met for check in check_goals(RESULTS, "svt")}
    assert met == {
        ("svt beats untrained on shape", "knn"): True,  # 45 - 20 = 25, spread 10
        ("svt beats untrained on shape", "linear"): True,
        ("svt beats untrained on action", "knn"): True,
        ("svt beats untrained on action", "linear"): True,
        ("svt beats pixel statistics on action", "knn"): True,  # 45 - 30 = 15, spread 10
        ("svt beats pixel statistics on action", "linear"): True,
    }
    close = [make_result(0, 0.40, 0.38, 0.30), make_result(1, 0.48, 0.36, 0.30)]
    met = {(check.goal, check.probe): check.met for check in check_goals(close, "svt")}
    assert met["svt beats pixel statistics on action", "knn"]  # 44 - 30 = 14, spread 8
    assert not met["svt beats untrained on action", "knn"]  # 44 - 37 = 7, spread 8


def test_curve_has_a_row_for_each_probed_step() -> None:
    assert [(row["step"], row["shape, knn"]) for row in curve_rows(RESULTS)] == [(1, "45.0 ± 5.0"), (2, "90.0 ± 10.0")]


def test_table_includes_chance_and_the_most_common_class() -> None:
    train = Clips(torch.empty(4), {"shape": torch.tensor([0, 1, 1, 2])}, torch.zeros(4))
    test = Clips(torch.empty(5), {"shape": torch.tensor([1, 1, 0, 2, 2])}, torch.zeros(5))
    rows = accuracy_rows(RESULTS, "svt", ProbedClips(Path(), train, {SEEN: test}))
    assert [row["probe"] for row in rows] == ["knn", "linear"]
    assert rows[0] == {
        "combinations": SEEN,
        "factor": "shape",
        "probe": "knn",
        "chance": "33.3",
        "commonest": "40.0",  # class 1 leads in training, and two of five test clips are of it
        PIXELS: "30.0 ± 0.0",
        UNTRAINED: "20.0 ± 2.0",
        "svt": "45.0 ± 5.0",
        LABELLED: "90.0 ± 0.0",
    }
    assert most_common_share(train.labels["shape"], test.labels["shape"]) == 0.4
