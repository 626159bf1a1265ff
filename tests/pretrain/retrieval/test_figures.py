"""Retrieval figures by hand and by numpy, in both directions, and equal on several ranks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import warm
from tests.pretrain.retrieval.naive import draw
from tests.pretrain.retrieval.rank_part import SHARES, find
from trichord.core.errors import UserError
from trichord.pretrain.retrieval.ranks import measure, own_ranks, rank_figures
from trichord.pretrain.retrieval.scores import Side

WORLDS = [ranks for ranks in SHARES if ranks > 1]


@pytest.mark.parametrize("count", [7, 8])
def test_figures_equal_numpy_and_queries_without_a_target_are_excluded(count: int) -> None:
    ranks = [1.0, 5.0, 5.5, 2.5, 10.0, 30.0, 7.0, 1.5][:count]
    expected = {
        "R@1": np.mean(np.array(ranks) <= 1),
        "R@5": np.mean(np.array(ranks) <= 5),
        "R@10": np.mean(np.array(ranks) <= 10),
        "median rank": np.median(ranks),
        "mean rank": np.mean(ranks),
        "queries": count,
    }
    given = torch.tensor([math.nan, *ranks, math.nan], dtype=torch.float64)
    assert rank_figures(given) == pytest.approx(expected)
    with pytest.raises(UserError, match=r"no query has a target of its own"):
        rank_figures(given[:1])


def test_by_hand() -> None:
    """Three clips with two captions, except one; the second of clip 0 matches clip 1, those of clip 1 are equal."""
    a, b, c = torch.eye(3).unbind()
    captions = Side(torch.stack([a, b, b, b, c]), torch.tensor([0, 0, 1, 1, 2]))
    videos = Side(torch.stack([a, b, c]), torch.arange(3))
    # For its second caption, clip 0 ranks after clip 1 and equal to clip 2, which counts half.
    assert own_ranks(captions, videos).tolist() == [1.0, 2.5, 1.0, 1.0, 1.0]
    # Video 1 scores its own two captions and one of clip 0 equally; its own do not compete with each other.
    assert own_ranks(videos, captions).tolist() == [1.0, 1.5, 1.0]
    assert own_ranks(videos, captions, among="clips").tolist() == [1.0, 1.5, 1.0]
    # One more caption of clip 2 matches: two captions of clip 2 score equally, but count as one clip.
    more = Side(torch.stack([a, b, b, b, c, b, b]), torch.tensor([0, 0, 1, 1, 2, 2, 2]))
    assert own_ranks(videos, more).tolist() == [1.0, 2.5, 1.0]
    assert own_ranks(videos, more, among="clips").tolist() == [1.0, 2.0, 1.0]


def test_equal_scores_rank_in_the_middle() -> None:
    captions, videos, _, _ = draw("constant")
    for name, figures in measure({"text": captions, "video": videos}).items():
        assert figures["R@1"] == figures["R@5"] == 0.0, name
    plain = measure({"text": captions, "video": videos}, dual_softmax=None)
    assert plain["text to video"]["median rank"] == plain["text to video"]["mean rank"] == 6.5  # of 12
    assert plain["video to text, best of each clip"]["mean rank"] == 6.5


def test_both_directions_are_measured_and_corrections_have_their_own_names() -> None:
    captions, videos, text_bank, video_bank = draw("random")
    sides = {"text": captions, "video": videos}
    found = measure(sides, dual_softmax=50.0, banks={"text": text_bank})
    softmax = "dual softmax at scale 50 (transductive)"
    assert list(found) == [
        "text to video",
        f"text to video, {softmax}",
        "text to video, QB-Norm at beta 20",
        "video to text",
        "video to text, best of each clip",
        f"video to text, {softmax}",
        f"video to text, {softmax}, best of each clip",
    ]
    assert found["text to video"] == rank_figures(own_ranks(captions, videos))
    assert found["video to text, best of each clip"] == rank_figures(own_ranks(videos, captions, among="clips"))
    is_first_n = torch.tensor(
        [int(clip) not in captions.clips_n[:place] for place, clip in enumerate(captions.clips_n)]
    )
    single = {"sound": captions.where(is_first_n & (captions.clips_n >= 0)), "video": videos}
    names = measure(single, dual_softmax=None, banks={"sound": text_bank, "video": video_bank})
    bank = "QB-Norm at beta 20"
    assert list(names) == ["sound to video", f"sound to video, {bank}", "video to sound", f"video to sound, {bank}"]


def test_a_clip_that_comes_twice_is_refused() -> None:
    """A sampler that pads ranks repeats clips, which would be counted twice."""
    captions, videos, _, _ = draw("random")
    twice = Side(videos.rows_nD.repeat(2, 1)[:-8], videos.clips_n.repeat(2)[:-8])
    with pytest.raises(UserError, match=r"one row of video per clip, found several for clip \d+"):
        measure({"text": captions, "video": twice})


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """The results of each rank, by the number of ranks."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    done = warm.run(["tests.pretrain.retrieval.rank_part", str(folder)])
    assert done.returncode == 0, done.stderr
    return {
        ranks: [torch.load(folder / f"{ranks}-{rank}", weights_only=True) for rank in range(ranks)] for ranks in WORLDS
    }


@pytest.mark.parametrize("ranks", WORLDS)
def test_several_ranks_equal_one_with_every_query_once(results: dict[int, list[dict[str, Any]]], ranks: int) -> None:
    alone = find(0, 1)
    assert any(torch.is_tensor(each) and bool(each.isfinite().any()) for each in alone.values())
    for name, expected in alone.items():
        if isinstance(expected, torch.Tensor):
            joined = torch.cat([each[name] for each in results[ranks]])
            np.testing.assert_array_equal(joined.numpy(), expected.numpy(), err_msg=name)
        elif isinstance(expected, dict):
            assert all(each[name] == expected for each in results[ranks])


@pytest.mark.parametrize("ranks", WORLDS)
def test_all_ranks_stop_together(results: dict[int, list[dict[str, Any]]], ranks: int) -> None:
    assert all("of 12 with another length" in each["stopped"] for each in results[ranks])
