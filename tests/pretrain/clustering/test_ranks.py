"""Clustering, banks and label tables are the same on two and three real ranks as on one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pretrain.clustering import rank_stage
from tests.pretrain.clustering.rank_stage import BATCH, COUNTS, STEPS, filled_bank
from tests.pretrain.clustering.row_stage import where_rounding_decides_nothing
from tests.pretrain.processes import run_ranks

Found = dict[str, Any]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Found, int]:
    """Return a folder with the state that one rank saved, the results of one rank, and the seed of its rows."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.save(filled_bank().state(), folder / "state1.pt")
    torch.save(filled_bank(steps=2).state(), folder / "state_young.pt")
    seed, found = where_rounding_decides_nothing(partial(rank_stage.work, folder))
    return folder, found, seed


@pytest.fixture(scope="module", params=[2, 3])
def together(request: pytest.FixtureRequest, alone: tuple[Path, Found, int]) -> list[Found]:
    """Return the results of each of several ranks."""
    folder, _, seed = alone
    run_ranks(["tests.pretrain.clustering.rank_stage", str(folder), str(seed)], ranks=request.param)
    saved = [folder / f"world{request.param}_rank{rank}.pt" for rank in range(request.param)]
    return [torch.load(path, weights_only=True) for path in saved]


@pytest.mark.parametrize("start", ["cold", "warm"])
def test_ranks_cluster_like_one(start: str, alone: tuple[Path, Found, int], together: list[Found]) -> None:
    expected = alone[1][start]
    found = [each[start] for each in together]
    assert torch.equal(torch.cat([each["labels_N"] for each in found]), expected["labels_N"])
    for each in found:
        assert torch.equal(each["centroids_KD"], found[0]["centroids_KD"])
        torch.testing.assert_close(each["centroids_KD"], expected["centroids_KD"], atol=1e-6, rtol=0)
        for name in ("iterations", "repaired_empty", "split_giant"):
            assert each[name] == expected[name]
        assert torch.equal(each["counts_K"], expected["counts_K"])
        assert each["objective"] == pytest.approx(expected["objective"], rel=1e-6)
    if start == "warm":
        assert expected["repaired_empty"] >= 2


def test_ranks_report_the_same_health(alone: tuple[Path, Found, int], together: list[Found]) -> None:
    for each in together:
        assert each["health"] == pytest.approx(alone[1]["health"], rel=1e-9)


def test_ranks_agree_where_processors_round_differently(alone: tuple[Path, Found, int], together: list[Found]) -> None:
    for each in together:
        assert torch.equal(each["drifted"], together[0]["drifted"])
        torch.testing.assert_close(each["drifted"], alone[1]["drifted"])


def test_all_ranks_stop_together(together: list[Found]) -> None:
    assert all("only 1 distinct row among 1,600" in each["stopped"] for each in together)


def test_unequal_rows_are_gathered_in_the_order_of_ranks(together: list[Found]) -> None:
    shares = COUNTS[len(together)]
    firsts = [sum(shares[:rank]) for rank in range(len(shares))]
    expected = [row for first, share in zip(firsts, shares, strict=True) for row in range(first, first + share, 100)]
    assert all(each["gathered"][:, 0].tolist() == expected for each in together)


def test_ranks_save_the_same_state_as_one(alone: tuple[Path, Found, int], together: list[Found]) -> None:
    expected = alone[1]["bank"]["state"]
    assert len(expected["keys"]) == rank_stage.BANK_STEPS * BATCH
    for each in together:
        assert each["bank"]["state"].keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in each["bank"]["state"].items())


def test_ranks_load_the_state_of_one(alone: tuple[Path, Found, int], together: list[Found]) -> None:
    for each in together:
        assert_same(each["state1"]["held"], each["bank"]["held"])
        assert each["state_young"]["state"]["keys"].tolist() == alone[1]["state_young"]["state"]["keys"].tolist()
    ages = torch.cat([each["state1"]["next"]["video"]["ages"] for each in together])
    assert sorted(ages.tolist()) == list(range(rank_stage.BANK_STEPS * BATCH))


def test_newest_row_of_a_sample_counts(alone: tuple[Path, Found, int], together: list[Found]) -> None:
    ages = alone[1]["bank"]["held"]
    for name in ("video", "audio"):
        expected = torch.full((100 * STEPS,), -1)
        for key, age in sorted(
            zip(ages[name]["keys"].tolist(), ages[name]["ages"].tolist(), strict=True), reverse=True
        ):
            expected[key] = age  # oldest first, so the last is the newest
        for each in [alone[1], *together]:
            assert torch.equal(each["bank"]["table"][name], expected)
        assert (expected[:BATCH:4] >= 0).all() and (expected[1:BATCH] == -1).any()


def assert_same(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for name, tensors in expected.items():
        assert all(torch.equal(found[name][kind], tensor) for kind, tensor in tensors.items())
