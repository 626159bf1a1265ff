"""Data sets are evaluated with every clip once, on two ranks as on one, among the chosen classes; tables have means."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.finetune.small_head import CLASSES, labels_of, write_shards
from tests.finetune.zeroshot.ranks import ALPHAS, SPEC, ask
from tests.finetune.zeroshot.stage import write_clip
from tests.pretrain.processes import run_ranks
from trichord.core.seeds import generator
from trichord.finetune.tasks.classification.metrics import average_precision
from trichord.finetune.zeroshot.candidates import Candidates, ClassDraws
from trichord.finetune.zeroshot.classifier import Recogniser, probabilities
from trichord.finetune.zeroshot.evaluate import EvaluatedWeights, ZeroShotResult, ZeroShotTest, evaluate, table
from trichord.finetune.zeroshot.loading import load_video_text
from trichord.pretrain.engine.distributed import World, join_world, leave_world
from trichord.shards.reading.archive import open_archive
from trichord.shards.reading.manifest import Manifest
from trichord.shards.reading.root import parse_root
from trichord.shards.sample import ClipTransform

CLIPS = 7  # not a multiple of the batch size


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("zeroshot")
    write_shards(top / "shards", CLIPS)
    write_clip(top / "tuned.safetensors", seed=1)
    write_clip(top / "first.safetensors", seed=2)
    return top


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    yield join_world()
    leave_world()


def naive(top: Path, alpha: float, names: tuple[str, ...]) -> list[list[float]]:
    """Decode each clip alone, mix the weights by hand, and classify among these classes alone."""
    model = load_video_text(top / "tuned.safetensors")
    before = load_video_text(top / "first.safetensors").model.state_dict()
    after = model.model.state_dict()
    model.model.load_state_dict({name: (1 - alpha) * before[name] + alpha * after[name] for name in after})
    recogniser = Recogniser(model, torch.device("cpu"))
    classifier = recogniser.classifier(names, SPEC)
    transform = ClipTransform(model.transforms.sample_spec(SPEC))
    rows = []
    for entry in Manifest.load(top / "shards").shards:
        archive = open_archive(parse_root(str(top / "shards")), entry.name)
        for position in range(len(archive)):
            raw = archive.read(position)
            views = [each[None] for each in transform(raw, generator(9, raw.key)).video]
            rows.append(probabilities(recogniser.logits(views, classifier), SPEC)[0].tolist())
        archive.close()
    return rows


def test_every_clip_is_classified_once_with_each_of_the_weights(top: Path, world: World) -> None:
    found = ask(top / "shards", top / "tuned.safetensors", top / "first.safetensors", None, world)
    assert [each.alpha for each in found] == list(ALPHAS)
    for each in found:
        assert each.names == CLASSES and each.bad == 0
        assert [np.flatnonzero(row).tolist() for row in each.truths_NK] == [labels_of(n) for n in range(CLIPS)]
        np.testing.assert_allclose(each.scores_NK, naive(top, each.alpha, each.names), atol=1e-5)
    rows = table(found)
    right = [np.mean(each.scores_NK.argmax(axis=1) == each.truths_NK.argmax(axis=1)) for each in found]
    assert [row["top1"] for row in rows] == right and [row["alpha"] for row in rows] == list(ALPHAS)


def test_two_ranks_equal_one_among_drawn_classes(top: Path, world: World) -> None:
    files = (top / "shards", top / "tuned.safetensors", top / "first.safetensors")
    one = ask(*files, ClassDraws(2, 3, seed=1), world)
    for printed in run_ranks(["tests.finetune.zeroshot.ranks", *map(str, files)], 2):
        two: list[list[Any]] = json.loads(printed.splitlines()[-1])
        assert len(two) == len(one) == 2 * len(ALPHAS)
        for (names, alpha, scores, truths, bad), each in zip(two, one, strict=True):
            assert (tuple(names), alpha, bad) == (each.names, each.alpha, 0)
            np.testing.assert_allclose(scores, each.scores_NK, atol=1e-5)
            assert truths == each.truths_NK.tolist()
    drawn = one[0]
    of_these = [n for n in range(CLIPS) if CLASSES[labels_of(n)[0]] in drawn.names]
    assert len(drawn.names) == 3 and len(drawn.scores_NK) == len(of_these) < CLIPS
    np.testing.assert_allclose(drawn.scores_NK, np.array(naive(top, 0.0, drawn.names))[of_these], atol=1e-5)
    assert drawn.truths_NK.sum(axis=1).tolist() == [1] * len(of_these)


def made(root: str, right: int, clips: int, alpha: float = 1.0) -> ZeroShotResult:
    truths_NK = np.eye(6, dtype=bool)[np.arange(clips) % 6]
    scores_NK = np.where(np.arange(clips)[:, None] < right, truths_NK, ~truths_NK).astype(float)
    names = tuple("abcdef")
    return ZeroShotResult(root, "0", Candidates("all 6", tuple(range(6))), names, alpha, scores_NK, truths_NK, False, 1)


def test_table_has_mean_and_deviation_over_splits_for_each_alpha() -> None:
    rows = table([made(f"split{n}", n, 10, alpha) for n in (2, 3, 7) for alpha in (0.0, 1.0)])
    assert [row["data"] for row in rows] == 2 * ["split2", "split3", "split7", "mean of 3", "standard deviation"]
    assert [row["alpha"] for row in rows] == [0.0] * 5 + [1.0] * 5
    assert rows[3]["top1"] == pytest.approx(statistics.fmean([0.2, 0.3, 0.7]))
    assert rows[4]["top1"] == pytest.approx(statistics.stdev([0.2, 0.3, 0.7]))
    assert {"top5", "top1_mean_of_classes"} <= rows[3].keys()
    alone = table([made("one", 3, 12)])
    assert len(alone) == 1 and "alpha" not in alone[0] and (alone[0]["clips"], alone[0]["bad"]) == (12, 1)
    low, high = alone[0]["top1 low"], alone[0]["top1 high"]  # a quarter of twelve correct: 0.25 +- 1.96 * 0.125
    assert low == pytest.approx(0.005, abs=0.09) and high == pytest.approx(0.495, abs=0.09)


def test_single_split_with_multi_label_clips_is_measured_by_average_precision(
    top: Path, world: World, tmp_path: Path
) -> None:
    several = write_shards(tmp_path / "several", 5, several=True)
    line = EvaluatedWeights(Recogniser(load_video_text(top / "tuned.safetensors"), world.device), None, ())
    found = evaluate(line, SPEC, ZeroShotTest((str(top / "shards"), str(several))), world)
    assert [len(each.scores_NK) for each in found] == [
        CLIPS,
        5,
    ]  # one of the five has no class, and is negative for all
    rows = table(found)
    for row, each in zip(rows, found, strict=False):
        own = [average_precision(each.scores_NK[:, k], each.truths_NK[:, k]) for k in range(len(CLASSES))]
        assert row["mAP"] == pytest.approx(np.mean([figure for figure in own if figure is not None]))
    assert "top1" not in rows[0] and rows[2]["mAP"] == pytest.approx((rows[0]["mAP"] + rows[1]["mAP"]) / 2)
