"""The benchmark of contrastive losses: equal work for both contenders, and memory by the size of the batch."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.harness import AS_IT_IS, TUNED, Turns
from benchmarks.training import contrast
from benchmarks.training.contrast import (
    CONTENDERS,
    OPEN_CLIP,
    OURS,
    ContrastCase,
    forward_and_backward,
    peak_mib,
    run_contrast_bench,
    run_memory_bench,
)
from trichord.core.errors import UserError


@pytest.mark.parametrize("loss", ["info_nce", "sigmoid"])
def test_both_contenders_return_the_same_results(loss: str) -> None:
    case = ContrastCase(loss=loss, batch=100, dim=16)
    ours, theirs = (forward_and_backward(make(case), case.inputs()) for make in CONTENDERS.values())
    assert len(ours) == len(theirs) == 1 + len(case.inputs()) and all(tensor.any() for tensor in ours)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


def test_every_case_has_a_row_for_each_allocator_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrast, "peak_mib", lambda name, case, beat: {OURS: 1.0, OPEN_CLIP: 7.0}[name])
    beats: list[None] = []
    threads = torch.get_num_threads()
    cases = [ContrastCase(loss=loss, batch=40, dim=8) for loss in ("info_nce", "sigmoid")]
    rows = run_contrast_bench(cases, rounds=2, beat=lambda: beats.append(None))
    assert [(row["loss"], row["allocator"]) for row in rows] == [
        (case.loss, way) for case in cases for way in ("as it is", "of trichord pretrain")
    ]
    assert all(row["apart"] <= 1e-5 and row["met"] is None and row["memory_ratio"] == 7 for row in rows)
    assert len(beats) == 2 * 2 * 2 * 3 and json.dumps(rows)
    assert torch.get_num_threads() == threads


def test_goal_requires_equal_results_speed_and_small_memory() -> None:
    case, mib = ContrastCase(loss="info_nce", batch=16384), {OURS: 10.0, OPEN_CLIP: 160.0}

    def turns(theirs: list[float], apart: float) -> Turns[float]:
        return Turns({OURS: [1.0] * len(theirs), OPEN_CLIP: theirs}, {OURS: [0.0], OPEN_CLIP: [apart]})

    row = contrast._row(case, AS_IT_IS, turns([1.9, 2.1], 1e-6), mib)
    assert (row["ratio"], row["memory_ratio"], row["met"], row["note"]) == (2.0, 16.0, True, "")
    row = contrast._row(case, AS_IT_IS, turns([1.9, 2.1], 1e-4), mib)
    assert row["met"] is False and row["note"] == "results differ by more than 1e-05: not the same work"
    assert contrast._row(case, AS_IT_IS, turns([1.6, 1.7], 0.0), mib)["met"] is False
    assert contrast._row(case, AS_IT_IS, turns([2.0], 0.0), {**mib, OPEN_CLIP: 140.0})["met"] is False
    assert contrast._row(case, TUNED, turns([1.0], 0.0), mib)["met"] is None


def test_info_nce_does_not_allocate_the_whole_similarity_matrix() -> None:
    mib = peak_mib(OURS, ContrastCase(loss="info_nce", batch=8192, dim=64))
    assert 2 * 8192 * 64 * 4 / 2**20 <= mib < 8192**2 * 4 / 2**20 / 3


def test_memory_rows_report_the_fitted_exponent(monkeypatch: pytest.MonkeyPatch) -> None:
    powers = {OURS: 1.0, OPEN_CLIP: 2.0}
    monkeypatch.setattr(contrast, "peak_mib", lambda name, case, beat: (case.batch / 1024) ** powers[name])
    ours, theirs = run_memory_bench((4096, 16384, 32768))
    assert (ours["exponent"], ours["met"], theirs["exponent"], theirs["met"]) == (1.0, True, 2.0, None)
    assert (ours["32768 pairs, MiB"], theirs["16384 pairs, MiB"], theirs["32768 pairs, MiB"]) == (32, 256, None)
    powers[OURS] = 1.2
    assert run_memory_bench((4096, 16384))[0]["met"] is False


def test_failed_process_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="process of 'unknown' ended with exit status 1"):
        peak_mib("unknown", ContrastCase(loss="sigmoid", batch=4, dim=4))
    assert "KeyError" in capfd.readouterr().err
