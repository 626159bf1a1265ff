"""Ranks by cosine, dual softmax and query bank equal those of loops over whole matrices, for any tiles."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.pretrain.retrieval import naive
from tests.pretrain.retrieval.naive import draw
from trichord.core.errors import UserError
from trichord.pretrain.engine.memory import LiveMemory
from trichord.pretrain.retrieval.ranks import COSINE, Among, own_ranks
from trichord.pretrain.retrieval.scores import MEMORY_BYTES, DualSoftmax, QueryBank, Scoring, Side, round_digits

KINDS = pytest.mark.parametrize("kind", ["random", "integers", "twins", "constant"])
MEMORIES = pytest.mark.parametrize("memory_bytes", [1500, MEMORY_BYTES])
TO_VIDEO, TO_TEXT = "text to video", "video to text"
WAYS: list[tuple[str, Among]] = [(TO_VIDEO, "rows"), (TO_TEXT, "rows"), (TO_TEXT, "clips")]
EITHER_WAY = pytest.mark.parametrize(("direction", "among"), WAYS)


def sides(direction: str, kind: str) -> tuple[Side, Side, torch.Tensor]:
    """Return the queries of a direction, its targets, and a bank of queries."""
    captions, videos, text_bank, video_bank = draw(kind)
    return (captions, videos, text_bank) if direction == TO_VIDEO else (videos, captions, video_bank)


def there(side: Side) -> tuple[torch.Tensor, list[int]]:
    """Return the present rows of a side, and their clips."""
    kept = side.where(side.clips_n >= 0)
    return kept.rows_nD, kept.clips_n.tolist()


def expected_of_all(queries: Side, naive_ranks: list[float]) -> list[float]:
    """Return expected ranks with NaN for missing queries."""
    ranks = iter(naive_ranks)
    return [next(ranks) if clip >= 0 else math.nan for clip in queries.clips_n.tolist()]


def assert_equal(found_Q: torch.Tensor, expected: list[float]) -> None:
    np.testing.assert_array_equal(found_Q.numpy(), np.array(expected))


@KINDS
@pytest.mark.parametrize("memory_bytes", [1, 1500, 5000, MEMORY_BYTES])
@EITHER_WAY
def test_ranks_by_cosine_equal_those_of_loops(kind: str, memory_bytes: int, direction: str, among: Among) -> None:
    queries, targets, _ = sides(direction, kind)
    (asked, asked_clips), (found, found_clips) = there(queries), there(targets)
    expected = expected_of_all(queries, naive.ranks(naive.cosines(asked, found), asked_clips, found_clips, among))
    assert 2 <= sum(math.isnan(each) for each in expected) < 8
    assert_equal(own_ranks(queries, targets, COSINE, among, memory_bytes), expected)


@KINDS
@MEMORIES
@EITHER_WAY
@pytest.mark.parametrize("scale", [100.0, 5.0])
def test_the_dual_softmax_is_its_formula(
    kind: str, memory_bytes: int, direction: str, among: Among, scale: float
) -> None:
    queries, targets, _ = sides(direction, kind)
    # Queries without a target are not part of the test, so the softmax excludes them.
    is_asked_n = (queries.clips_n >= 0) & torch.isin(queries.clips_n, targets.clips_n)
    found, found_clips = there(targets)
    scores_QN = naive.dual_softmax(naive.cosines(queries.rows_nD[is_asked_n], found), scale)
    expected = torch.full((len(queries),), torch.nan, dtype=torch.float64)
    naive_ranks = naive.ranks(scores_QN, queries.clips_n[is_asked_n].tolist(), found_clips, among)
    expected[is_asked_n] = torch.tensor(naive_ranks, dtype=torch.float64)
    assert_equal(own_ranks(queries, targets, DualSoftmax(scale), among, memory_bytes), expected.tolist())


@KINDS
@MEMORIES
@EITHER_WAY
@pytest.mark.parametrize("bank_rows", [3, 100])
def test_the_query_bank_is_its_formula(
    kind: str, memory_bytes: int, direction: str, among: Among, bank_rows: int
) -> None:
    queries, targets, bank = sides(direction, kind)
    bank_KD = bank[:bank_rows]
    (asked, asked_clips), (found, found_clips) = there(queries), there(targets)
    cosines_QN = naive.cosines(asked, found)
    scores_QN = naive.query_bank(cosines_QN, naive.cosines(bank_KD, found), 20.0)
    is_changed_Q = (scores_QN != cosines_QN).any(axis=1)
    assert is_changed_Q.any()
    assert kind in ("constant", "twins") or bank_rows == 100 or not is_changed_Q.all()
    expected = expected_of_all(queries, naive.ranks(scores_QN, asked_clips, found_clips, among))
    assert_equal(own_ranks(queries, targets, QueryBank(bank_KD), among, memory_bytes), expected)


def test_equal_rows_are_tied_at_any_position() -> None:
    """Libraries sum the terms of a product in an order that depends on the position of its row in the matrix."""
    generator = torch.Generator().manual_seed(1)
    one, *queries = torch.nn.functional.normalize(torch.randn(200, 333, generator=generator))
    targets = Side(one.repeat(211, 1), torch.arange(211))
    asked = Side(torch.stack(queries), torch.arange(199))
    for memory_bytes in (333_333, MEMORY_BYTES):
        for scoring in (COSINE, DualSoftmax(), QueryBank(torch.stack(queries[:50]))):
            ranks_Q = own_ranks(asked, targets, scoring, memory_bytes=memory_bytes)
            assert ranks_Q.tolist() == [106.0] * 199, (scoring.name, memory_bytes)


def test_rounding_keeps_32_bits_at_any_magnitude() -> None:
    values = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mantissas, exponents = np.frexp(values.numpy())
    expected = np.ldexp(np.round(mantissas * 2.0**32), exponents - 32)
    np.testing.assert_array_equal(round_digits(values.clone()).numpy(), expected)
    tiny = values * 2.0**-300  # as scores of the dual softmax are
    np.testing.assert_array_equal(round_digits(tiny).numpy(), expected * 2.0**-300)


def test_nearly_equal_vectors_are_still_ranked() -> None:
    """Cosines that float32 rounds to 1 are ordered."""
    angles_N = torch.linspace(0, 1e-3, 50)
    rows_ND = torch.stack([torch.ones(50), angles_N], dim=1).double()
    rows_ND = torch.nn.functional.normalize(rows_ND)
    assert len((rows_ND.float() @ rows_ND[0].float()).unique()) < 25
    first = Side(rows_ND[:1], torch.tensor([30]))
    assert own_ranks(first, Side(rows_ND, torch.arange(50))).tolist() == [31.0]


def test_memory_stays_below_the_limit_without_the_whole_matrix() -> None:
    queries, targets, dim, asked_bytes = 600, 1000, 4, 150_000
    generator = torch.Generator().manual_seed(0)
    rows = [torch.nn.functional.normalize(torch.randn(n, dim, generator=generator)) for n in (queries, targets, 70)]
    one, other = Side(rows[0], torch.arange(queries)), Side(rows[1], torch.arange(targets) % 700)
    rows_and_numbers = 100 * (queries + targets)
    assert 8 * queries * targets > 15 * (asked_bytes + rows_and_numbers)
    cases: list[tuple[Scoring, Among]] = [(COSINE, "rows"), (DualSoftmax(), "clips"), (QueryBank(rows[2]), "rows")]
    for scoring, among in cases:
        with LiveMemory(rows) as live:
            own_ranks(one, other, scoring, among, asked_bytes)
        assert asked_bytes / 2 < live.peak_bytes < asked_bytes + rows_and_numbers


def test_rows_that_are_not_unit_vectors_are_refused() -> None:
    """Nothing is greater than NaN, so a diverged network would rank everything first."""
    captions, videos, _, _ = draw("random")
    for broken in (torch.nan, torch.inf, 0.0, 2.0):
        rows_nD = videos.rows_nD.clone()
        rows_nD[0] *= broken
        other = Side(rows_nD, videos.clips_n)
        with pytest.raises(UserError, match=r"rows of the targets with length 1, found 1 of 12"):
            own_ranks(captions, other)
        with pytest.raises(UserError, match=r"of the queries"):
            own_ranks(other, captions)
        with pytest.raises(UserError, match=r"of the query bank"):
            own_ranks(captions, videos, QueryBank(rows_nD))
    halves = Side(videos.rows_nD.bfloat16(), videos.clips_n)
    assert_equal(
        own_ranks(halves, captions), own_ranks(Side(halves.rows_nD.float(), videos.clips_n), captions).tolist()
    )


def test_empty_test_is_refused() -> None:
    captions, videos, _, _ = draw("random")
    none = Side(videos.rows_nD, torch.full_like(videos.clips_n, -1))
    with pytest.raises(UserError, match=r"no rows of the targets in any process"):
        own_ranks(captions, none)
    with pytest.raises(UserError, match=r"no rows of the query bank"):
        own_ranks(captions, videos, QueryBank(videos.rows_nD[:0]))
    with pytest.raises(ValueError, match=r"as many clip numbers"):
        Side(videos.rows_nD, videos.clips_n[1:])
    with pytest.raises(ValueError, match=r"one device, found \(13, 8\) on meta"):
        Side(videos.rows_nD.to("meta"), videos.clips_n)
    with pytest.raises(ValueError, match=r"scale=1000: expected a number above 0 and at most 300"):
        DualSoftmax(1000.0)
