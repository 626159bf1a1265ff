"""The control of an evaluation: the metrics of scores that are the same for every video."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.finetune.small_head import BINARY, SLIDING, small_config
from trichord.finetune.tasks.classification.evaluation import ALIKE, measure
from trichord.finetune.tasks.classification.scoring import Scored, ScoredVideo
from trichord.finetune.tasks.classification.spec import ClassificationSpec
from trichord.shards.record import Interval

CLASSES, VIDEOS = 4, 12


def scored(seed: int) -> Scored:
    """Draw labels, none for some videos, scores of two windows each, and intervals that fill a window."""
    rng = np.random.default_rng(seed)
    truths_NK = rng.random((VIDEOS, CLASSES)) < 0.3
    truths_NK[:CLASSES] = np.eye(CLASSES, dtype=bool)
    truths_NK[-1] = False
    videos = []
    for number, truth_K in enumerate(truths_NK):
        intervals = tuple(Interval(label=int(k), start=0.0, end=1.0) for k in np.flatnonzero(truth_K))
        given_CK = torch.from_numpy(rng.random((2, CLASSES)))
        videos.append(ScoredVideo(f"{number}", 2.0, intervals, ((0.0, 1.0), (1.0, 2.0)), given_CK))
    scores_NK = np.stack([video.given_CK.mean(dim=0).numpy() for video in videos])
    return Scored(scores_NK, truths_NK, tuple(videos), silent=0, bad=0)


def spec() -> ClassificationSpec:
    found = small_config(Path("nowhere"), **{**BINARY, **SLIDING}).objective
    assert isinstance(found, ClassificationSpec)
    return found


def test_constant_scores_get_the_share_of_each_class_or_officially_the_order_of_the_set() -> None:
    tested = scored(0)
    rows = {row["metric"]: row for row in measure(spec(), tested, seed=0).figures}
    assert rows["mAP"][ALIKE] == pytest.approx(tested.truths_NK.mean(axis=0).mean())
    has_any_N = tested.truths_NK.any(axis=1)
    in_order_NK = np.concatenate([tested.truths_NK[has_any_N], tested.truths_NK[~has_any_N]])
    expected = []
    for truths_N in in_order_NK.T:
        places = np.flatnonzero(truths_N)
        expected.append(np.mean([(at + 1) / (place + 1) for at, place in enumerate(places)]))
    assert rows["mAP_charades"][ALIKE] == pytest.approx(np.mean(expected))
    assert rows["mAP_of_windows"][ALIKE] == pytest.approx(tested.truths_NK.mean(axis=0).mean() / 2)
    assert ALIKE in rows["localisation_mAP_charades"] and rows["calibration_error"][ALIKE] is None


def test_control_does_not_depend_on_the_scores() -> None:
    tested, other = scored(1), scored(1)
    for video in other.videos:
        video.given_CK.mul_(0.5)
    controls = [{row["metric"]: row[ALIKE] for row in measure(spec(), each, 0).figures} for each in (tested, other)]
    assert controls[0] == controls[1] and controls[0]["mAP"] is not None
