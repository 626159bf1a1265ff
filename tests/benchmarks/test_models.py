"""The benchmark of backbones: equal work for all contenders, and goals that require equal results."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.harness import Turns
from benchmarks.training import models
from benchmarks.training.models import CONTESTS, EAGER, OURS, OURS_BF16, SDPA, Contest, ModelCase, run_model_bench
from trichord.core.errors import UserError


def small(family: str, frames: int = 4, dim: int = 64) -> ModelCase:
    return ModelCase.model_validate(
        {"family": family, "dim": dim, "heads": dim // 32, "depth": 2, "size": 32, "frames": frames}
    )


@pytest.mark.parametrize(
    ("family", "against"), [("vivit", (EAGER, SDPA)), ("timesformer", (EAGER,)), ("xclip", (EAGER, SDPA))]
)
def test_each_family_does_the_same_work_as_hugging_face(family: str, against: tuple[str, ...]) -> None:
    beats: list[None] = []
    contest = Contest(small(family), dict.fromkeys(against, 0.0))
    rows = run_model_bench({"small one": contest}, rounds=2, beat=lambda: beats.append(None))
    assert [row["against"] for row in rows] == list(against)
    for row in rows:
        assert (row["model"], row["note"], row["met"]) == ("small one", "", True)
        assert row["apart"] <= 1e-4 and row["range"][0] <= row["ratio"] <= row["range"][1]
    assert len(beats) == 3 * (1 + len(against)) and json.dumps(rows)


def test_eager_and_sdpa_run_their_own_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    built = models.contenders(small("vivit"), (OURS, EAGER, SDPA))
    called: list[str] = []
    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *given, **named: called.append("fused") or attend(*given, **named),
    )
    for name, fused in ((EAGER, 0), (SDPA, 2), (EAGER, 0)):
        called.clear()
        built[name].step(small("vivit").clip())
        assert len(called) == fused


def test_bf16_is_compared_with_our_own_fp32() -> None:
    contest = Contest(small("timesformer"), {OURS: 0.0}, OURS_BF16)
    (row,) = run_model_bench({"bf16": contest}, rounds=1)
    assert row["against"] == "ours in fp32" and row["met"] is True and 1e-4 < row["apart"] <= 0.1


def test_bf16_is_left_out_where_it_would_be_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    for can, left_out in (({"avx2": True}, {"TimeSformer in bf16, base"}), ({"avx512_bf16": True}, set())):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda can=can: can)
        assert set(CONTESTS) - set(models.measurable(CONTESTS)) == left_out


def test_memory_is_measured_in_a_process_for_each_contender() -> None:
    contest = Contest(small("vivit", frames=32), {EAGER: 0.0}, memory_goals={EAGER: 0.1})
    (row,) = run_model_bench({"memory": contest}, rounds=1)
    assert row["memory_ratio"] == pytest.approx(row["theirs_mib"] / row["ours_mib"], rel=0.1)
    assert row["ours_mib"] > 0 and row["met"] is True


def test_goal_requires_equal_results_speed_and_small_memory() -> None:
    contest = Contest(small("vivit"), {EAGER: 1.5}, memory_goals={EAGER: 2.0})

    def turns(apart: float, ours_s: float = 1.0) -> Turns[float]:
        return Turns({OURS: [ours_s] * 3, EAGER: [1.8, 2.0, 2.4]}, {OURS: [0.0], EAGER: [apart]})

    row = models._row("one", EAGER, contest, turns(1e-6), {OURS: 10.0, EAGER: 20.0})
    assert (row["met"], row["ratio"], row["range"], row["memory_ratio"]) == (True, 2.0, (1.8, 2.4), 2.0)
    row = models._row("one", EAGER, contest, turns(1e-3), {OURS: 10.0, EAGER: 20.0})
    assert row["met"] is False and row["note"] == "results differ by more than 0.0001: not the same work"
    assert models._row("one", EAGER, contest, turns(0.0), {OURS: 10.0, EAGER: 19.0})["met"] is False
    assert models._row("one", EAGER, contest, turns(0.0, ours_s=2.0), {})["met"] is False


def test_failed_process_is_named() -> None:
    with pytest.raises(UserError, match=r"the process of 'ours' ended with exit status 1"):
        models.peak_mib("ours", small("vivit").model_copy(update={"heads": 3}))


def test_every_contest_has_a_size_that_the_command_knows() -> None:
    assert all(any(f", {size}" in name for size in ("small", "base")) for name in CONTESTS)
