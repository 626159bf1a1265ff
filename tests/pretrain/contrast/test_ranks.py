"""Ranks that share a batch compute the same as one rank with the whole batch, in both forms of communication."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests import warm
from tests.pretrain.contrast.naive import LOSSES, draw, loss_and_gradients
from tests.pretrain.contrast.rank_part import CASES, SAMPLES, WORLDS, presence

Found = dict[int, list[dict[str, Any]]]
EVERY_WORLD = pytest.mark.parametrize("ranks", WORLDS)
ALL = pytest.mark.parametrize("name", LOSSES)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """The results of each rank, by the number of ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    done = warm.run(["tests.pretrain.contrast.rank_part", str(folder)])
    assert done.returncode == 0, done.stderr
    return {
        ranks: [torch.load(folder / f"{ranks}-{rank}", weights_only=True) for rank in range(ranks)] for ranks in WORLDS
    }


def joined(parts: list[list[Tensor]]) -> list[Tensor]:
    """Combine the parts of the ranks: the mean of losses and of scalar gradients, and concatenated rows.

    The gradients of rows are W times those of the global loss, because the mean over ranks follows later.
    """
    loss, a, b, *numbers = zip(*parts, strict=True)
    rows = [torch.cat(each) / len(parts) for each in (a, b)]
    return [torch.stack(loss).mean(), *rows, *(torch.stack(each).mean(0) for each in numbers)]


@ALL
@EVERY_WORLD
@pytest.mark.parametrize("case", CASES)
def test_several_ranks_equal_one_in_either_form(results: Found, ranks: int, name: str, case: str) -> None:
    given = draw(name, ranks * SAMPLES, dtype=torch.float64)
    expected = loss_and_gradients(3.0 * LOSSES[name](*given, presence(case, ranks)), given)
    # A single pair has no negatives, except in the sigmoid loss.
    assert bool((expected[1].abs() > 1e-12).any()) == (case != "none" and (case != "one" or name == "sigmoid"))
    for form in ("gathered", "ring"):
        found = joined([each["found"][f"{name} {form} {case}"] for each in results[ranks]])
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13, msg=form)


@ALL
@EVERY_WORLD
def test_ring_holds_two_foreign_blocks_and_one_gradient_block(results: Found, ranks: int, name: str) -> None:
    for each in results[ranks]:
        forward, both = each["most"][f"{name} ring"]
        # One in use and one in transit; with gradients, one gradient block for each.
        assert (forward, both) == ((3, 3) if name == "sigmoid" else (min(2, ranks - 1), 3))
        assert each["most"][f"{name} gathered"] == (0, 0)
