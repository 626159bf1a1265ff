"""The watch: a collapsing run is warned once with the right message; a healthy one is not warned."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from trichord.pretrain.engine.watch import EMBEDDING_RULES, LoaderWatch, Watch, embedding_figures
from trichord.pretrain.objectives.base import HealthRule

ROWS, FEATURES = 64, 32


def rows(seed: int, count: int = ROWS, features: int = FEATURES) -> Tensor:
    return torch.randn(count, features, generator=torch.Generator().manual_seed(seed))


def naive(embeddings_BD: Tensor) -> tuple[float, float]:
    """Compute spread and effective rank in numpy, by definition."""
    unit = embeddings_BD.double().numpy()
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    singular = np.linalg.svd(unit - unit.mean(axis=0), compute_uv=False)
    shares = [value / singular.sum() for value in singular if value > 1e-12]
    entropy = -sum(share * math.log(share) for share in shares)
    return float(np.mean(np.std(unit, axis=0)) * math.sqrt(unit.shape[1])), math.exp(entropy)


@pytest.mark.parametrize("shape", [(64, 32), (32, 64), (9, 200)])
@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_figures_equal_their_definitions(shape: tuple[int, int], scale: float) -> None:
    embeddings_BD = 1 + scale * rows(0, *shape)
    figures = embedding_figures({"teacher": embeddings_BD})
    spread, rank = naive(embeddings_BD)
    assert figures["embedding_std/teacher"] == pytest.approx(spread, rel=1e-5)
    assert figures["embedding_rank/teacher"] == pytest.approx(rank, rel=1e-5)
    assert figures["embedding_rank_share/teacher"] == pytest.approx(rank / min(shape[0] - 1, shape[1]), rel=1e-5)


def test_figures_have_the_documented_range() -> None:
    everywhere = embedding_figures({"x": torch.cat([torch.eye(FEATURES), -torch.eye(FEATURES)])})
    assert everywhere["embedding_std/x"] == pytest.approx(1.0)
    assert everywhere["embedding_rank_share/x"] == pytest.approx(1.0)
    assert embedding_figures({"x": torch.full((ROWS, FEATURES), 0.37)}) == {
        "embedding_std/x": pytest.approx(0.0, abs=1e-12)
    }
    line = torch.zeros(ROWS, FEATURES)
    line[::2, 3], line[1::2, 3] = 2.0, -0.5
    along = embedding_figures({"x": line})
    assert along["embedding_rank/x"] == pytest.approx(1.0)
    assert embedding_figures({"x": rows(0, 4)}) == {}, "four rows span few directions whatever the network does"
    assert math.isnan(embedding_figures({"x": torch.full((ROWS, FEATURES), math.nan)})["embedding_std/x"])


def measure_on_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    figures = embedding_figures({"b": rows(rank), "a": rows(5 + rank, 2000, 8)})
    torch.save(figures, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_measure_the_rows_of_both_ranks(tmp_path: Path) -> None:
    mp.start_processes(measure_on_two, (str(tmp_path),), nprocs=2, start_method="spawn")
    both = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    whole = {
        "b": torch.cat([rows(0), rows(1)]),
        "a": torch.cat([rows(5, 2000, 8)[:512], rows(6, 2000, 8)[:512]]),  # capped
    }
    assert both[0] == both[1] == pytest.approx(embedding_figures(whole))


def watched(trajectory: Callable[[float], Tensor], lines: int = 40) -> list[str]:
    """Simulate a run along a trajectory from progress 0 to 1, a log line every ten steps, with the default rules."""
    watch = Watch(EMBEDDING_RULES)
    found = []
    for line in range(lines):
        figures = embedding_figures({"teacher": trajectory(line / (lines - 1))})
        found += watch.check(10 * line, figures)
    return found


def test_collapse_to_a_point_is_warned_about_once() -> None:
    (warning,) = watched(lambda progress: torch.ones(FEATURES) + 10 ** (1 - 4 * progress) * rows(1))
    assert "embedding_std/teacher" in warning
    assert "below 0.05 for 3 log lines in a row" in warning
    assert "collapse" in warning and "Try a slower teacher" in warning


def test_collapse_to_a_line_is_warned_about_once() -> None:
    def trajectory(progress: float) -> Tensor:
        spread = torch.full((FEATURES,), 10 ** (-4 * progress))
        spread[0] = 1.0
        return rows(2) * spread

    (warning,) = watched(trajectory)
    assert "embedding_rank/teacher" in warning
    assert "dimensional collapse" in warning


@pytest.mark.parametrize(
    "trajectory",
    [
        lambda progress: rows(3),
        lambda progress: 10 ** (-6 * progress) * rows(3),  # their length does not matter
        lambda progress: rows(4, 10)[torch.arange(ROWS) % 10] + (1 - progress) * rows(3),  # ten tight classes
        lambda progress: 10 * (1 - progress) ** 4 + rows(5),  # close together before they spread, as at init
    ],
)
def test_healthy_runs_are_not_warned(trajectory: Callable[[float], Tensor]) -> None:
    assert watched(trajectory) == []


PINNED = HealthRule("loss_over_ln_k", "above", 0.99, "It says nothing. Try this.", patience=2, from_step=20)


def said_at(rule: HealthRule, values: list[float | None]) -> list[int]:
    watch = Watch([rule])
    return [step for step, value in enumerate(values) if watch.check(step, {rule.figure: value, "other": 9.0})]


def test_a_rule_waits_for_its_step_and_its_patience() -> None:
    assert said_at(PINNED, [1.0] * 40) == [21]
    assert said_at(PINNED, [1.0] * 20 + [0.5] + [1.0] * 3) == [22]
    assert said_at(PINNED, [1.0] * 21 + [0.5] * 20) == []
    assert said_at(PINNED, [0.98] * 40) == []


def test_rule_warns_again_only_after_recovery() -> None:
    assert said_at(PINNED, [0.0] * 20 + [1.0] * 9 + [0.0] + [1.0] * 9) == [21, 31]
    assert said_at(PINNED, [0.0] * 20 + [1.0] * 9 + [None, math.nan] + [1.0] * 9) == [21]


def test_a_warning_names_figure_value_limit_and_advice() -> None:
    (text,) = Watch([HealthRule("entropy", "below", 0.1, "Do this.", patience=1)]).check(7, {"entropy": 0.0123})
    assert text == "step 7: entropy is 0.0123, below 0.1 for 1 log line. Do this."


def test_rule_finds_its_figure_under_a_prefix() -> None:
    watch = Watch([HealthRule("entropy", "below", 0.1, "Do this.", patience=1)])
    assert watch.check(7, {"health/entropy": 0.5, "loss/entropy": 0.0}) == []
    assert len(watch.check(8, {"health/entropy": 0.0})) == 1


def verdicts(shares: list[float | None], workers: int = 2, cores: int = 8) -> list[tuple[int, str]]:
    watch = LoaderWatch(workers, cores)
    found = [(step, watch.check(step, share)) for step, share in enumerate(shares)]
    return [(step, text) for step, text in found if text]


def test_starving_device_is_warned_about_once_and_its_recovery_reported() -> None:
    (first, starving), (second, well) = verdicts(
        [None, 0.02, 0.5, 0.3, 0.4, 0.6, 0.7, 0.05, 0.3, 0.02, 0.04, 0.03, 0.0]
    )
    assert (first, second) == (4, 11)
    assert starving.startswith("step 4: the loader is too slow: 40 % of the time is spent waiting for data.")
    assert "Raise data.workers (2 now, 8 cores for this rank)" in starving
    assert "trichord shards build … --mode encode" in starving and "trichord shards read" in starving
    assert well == "step 11: the loader keeps up again: 3 % of the time is spent waiting for data."


def test_fast_loader_is_not_warned_about() -> None:
    assert verdicts([None, 0.5, 0.5, 0.01, 0.5, 0.09, 0.5, 0.5, 0.1]) == []


def test_more_workers_than_cores_are_not_suggested() -> None:
    ((_, text),) = verdicts([0.5] * 9, workers=8)
    assert "data.workers=8 already uses all 8 cores" in text
    assert "--mode encode" in text
