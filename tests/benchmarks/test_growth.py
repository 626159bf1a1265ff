"""The growth benchmark: the exponent fitted to times, and a measurement at every number of frames."""

from __future__ import annotations

import json

import pytest

from benchmarks.training import growth
from benchmarks.training.growth import GROWTHS, Growth, exponent, run_growth_bench


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5, 2.0])
def test_exponent_is_the_power_by_which_times_grow(power: float) -> None:
    assert exponent((8, 16, 32), [3 * frames**power for frames in (8, 16, 32)]) == pytest.approx(power)


def test_row_reports_linearity_and_the_range_of_the_rounds() -> None:
    rounds = [[frames**power for frames in (8, 16)] for power in (1.05, 1.0, 1.3)]
    row = growth._row("one", True, (8, 16), rounds)
    assert (row["exponent"], row["range"], row["met"]) == (1.05, (1.0, 1.3), True)
    assert row["8 frames, ms"] == 8000
    assert growth._row("one", True, (8, 16), rounds[2:])["met"] is False
    assert growth._row("one", False, (8, 16), rounds)["met"] is None


def test_every_network_is_measured_at_every_number_of_frames() -> None:
    beats: list[None] = []
    tiny = {
        name: Growth(each.spec.model_copy(update={"depth": 1, "size": 32}), each.should_be_linear)
        for name, each in GROWTHS.items()
    }
    rows = run_growth_bench(tiny, rounds=1, frames=(2, 4), beat=lambda: beats.append(None))
    assert [row["network"] for row in rows] == list(GROWTHS) and len(beats) == 2 * 2 * len(GROWTHS)
    assert all({"2 frames, ms", "4 frames, ms"} < set(row) for row in rows) and json.dumps(rows)
    assert [row["met"] is None for row in rows] == [False, False, False, True, True]
