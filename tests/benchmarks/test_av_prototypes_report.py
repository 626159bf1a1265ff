"""The report of the audio-visual learning experiment, with expected values computed by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.learning import av_prototypes as av_learning_report
from benchmarks.learning.av_prototypes import (
    AUDIBLE,
    DIRECTIONS,
    GOALS,
    INSTANCES,
    MODALITIES,
    PROTOTYPES,
    SHUFFLED,
    WAYS,
    XDC,
    AvClips,
    probe_rows,
    purity_rows,
    retrieval_rows,
    run_and_report,
)
from benchmarks.learning.experiment import UNTRAINED, WayResult, check_goals, figure

SHARES = {UNTRAINED: 0.10, PROTOTYPES: 0.60, INSTANCES: 0.55, XDC: 0.30, SHUFFLED: 0.12}


def make_result(shift: float) -> dict[str, WayResult]:
    """Return a seed with the same share for every figure of a way, and without recalls for XDC."""
    found = {}
    for way, share in SHARES.items():
        figures = {f"{modality}: {factor}, linear": share + shift for modality in MODALITIES for factor in AUDIBLE}
        figures |= {f"{modality}: purity of {factor}": share + shift for modality in MODALITIES for factor in AUDIBLE}
        if way != XDC:
            for direction in DIRECTIONS:
                figures |= {f"{direction}, R@{k}": (share + shift) * k / 10 for k in (1, 5, 10)}
                figures[f"{direction}, median rank"] = 10 + 100 * shift
        found[way] = WayResult({"way": way}, figures, 12.4)
    return found


RESULTS = [make_result(0.0), make_result(0.04), make_result(0.02)]


def make_clips(labels: list[int], silent: int = 0) -> AvClips:
    count = len(labels)
    present_N = torch.arange(count) >= silent
    return AvClips(torch.empty(count), torch.empty(count), present_N, {name: torch.tensor(labels) for name in AUDIBLE})


PARTS = {"train": make_clips([0, 1, 1, 2]), "test": make_clips([1, 1, 0, 2, 2], silent=1)}


def test_figure_is_mean_and_range_over_the_seeds_that_have_it() -> None:
    found = figure(RESULTS, PROTOTYPES, "audio to video, R@10")
    assert found is not None and (round(found.mean, 9), round(found.spread, 9)) == (0.62, 0.04)
    assert figure(RESULTS, XDC, "audio to video, R@10") is None


def test_retrieval_rows_include_chance_and_ranks_that_are_not_per_cent() -> None:
    rows = retrieval_rows(RESULTS, 40)
    assert [row["figure"] for row in rows] == [
        f"{direction}, {name}" for direction in DIRECTIONS for name in ("R@1", "R@5", "R@10", "median rank of 40")
    ]
    assert rows[1] == {
        "figure": "audio to video, R@5",
        "chance": "12.5",
        UNTRAINED: "6.0 ± 1.0",
        PROTOTYPES: "31.0 ± 1.0",
        INSTANCES: "28.5 ± 1.0",
        XDC: "-",
        SHUFFLED: "7.0 ± 1.0",
    }
    assert (rows[3]["chance"], rows[3][PROTOTYPES], rows[3][XDC]) == ("20", "12 ± 2", "-")
    assert retrieval_rows(RESULTS, 4)[1]["chance"] == "100.0"


def test_probe_rows_include_the_most_common_class() -> None:
    rows = probe_rows(RESULTS, PARTS)
    assert [row["figure"] for row in rows] == [
        f"{modality}: {factor}, linear" for modality in MODALITIES for factor in AUDIBLE
    ]
    # Class 1 leads in training, and two of five test clips are of it.
    assert {row["chance"] for row in rows} == {"40.0"} and rows[0][XDC] == "32.0 ± 2.0"


def test_purity_has_a_row_for_each_modality_and_factor() -> None:
    rows = purity_rows(RESULTS)
    assert [row["figure"] for row in rows] == [
        f"{modality}: purity of {factor}" for modality in MODALITIES for factor in AUDIBLE
    ]
    assert rows[0][UNTRAINED] == "12.0 ± 2.0"


def test_goal_is_met_only_by_more_than_the_larger_spread() -> None:
    found = check_goals(RESULTS, GOALS)
    assert [(check.goal, check.probe) for check in found] == [
        (f"{ours} beats {theirs}", name) for ours, theirs, name in GOALS
    ]
    assert all(check.met for check in found)  # the closest, 60 and 55, differ by more than 4
    met = {check.goal: check.met for check in check_goals([make_result(0.0), make_result(0.06)], GOALS)}
    assert not met.pop(f"{PROTOTYPES} beats {INSTANCES}") and all(met.values())


def test_results_json_keeps_tables_and_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av_learning_report, "learn", lambda *_: (PARTS, RESULTS))
    tables = run_and_report(tmp_path, [5, 6, 7], 100, ())
    kept = json.loads((tmp_path / "results.json").read_bytes())
    assert kept["tables"] == json.loads(json.dumps(tables)) and len(kept["seeds"]) == 3
    assert kept["seeds"][1][SHUFFLED]["figures"] == RESULTS[1][SHUFFLED].figures
    recalls, _, _, goals, seconds = tables.values()
    assert recalls[0]["chance"] == "25.0"  # of the four audible test clips
    assert len(goals) == len(GOALS)
    assert seconds[2] == {"seed": 7, **dict.fromkeys(WAYS, 12)}
