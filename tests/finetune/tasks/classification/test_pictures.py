"""Figures of an evaluation: which are drawn for which videos, their contents, and that they are reproducible."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch

from tests.finetune.small_head import CLASSES, settings
from trichord.finetune.tasks.classification.metrics import class_rows, measure
from trichord.finetune.tasks.classification.pictures import draw_all
from trichord.finetune.tasks.classification.scoring import Scored, ScoredVideo
from trichord.finetune.tasks.classification.spec import ClassificationSpec
from trichord.shards.record import Interval

WINDOWS = ((0.0, 2.0), (2.0, 4.0))


def scored(is_multi_label: bool) -> tuple[ClassificationSpec, Scored, list[dict[str, Any]]]:
    """Make five videos: one without intervals, one without windows."""
    changes: dict[str, Any] = {"objective__loss": {"kind": "binary"}} if is_multi_label else {}
    spec = ClassificationSpec.model_validate(settings(Path("nowhere"), **changes)["objective"])
    given_NCK = torch.rand(5, 2, 4, generator=torch.Generator().manual_seed(0))
    intervals = (Interval(label=2, start=1.0, end=3.5),)
    videos = tuple(
        ScoredVideo(f"v/{number}", 4.0, intervals if number else (), WINDOWS if number != 1 else WINDOWS[:1], given_CK)
        for number, given_CK in enumerate(given_NCK)
    )
    truths_NK = np.eye(4, dtype=bool)[[0, 1, 2, 2, 0]]
    scores_NK = torch.stack([video.scores(spec) for video in videos]).numpy()
    _, per_class = measure(scores_NK, truths_NK, is_multi_label)
    rows = class_rows(CLASSES, truths_NK, per_class, is_multi_label)
    return spec, Scored(scores_NK, truths_NK, videos, 0, 0), [{**row, "low": 0.1, "high": 0.9} for row in rows]


@pytest.mark.parametrize("is_multi_label", [True, False])
def test_figures_contain_their_data(is_multi_label: bool, tmp_path: Path) -> None:
    spec, tested, rows = scored(is_multi_label)
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text is not drawn as paths
        written = draw_all(tmp_path / "set", "svg", spec, tested, rows)
        again = [] if is_multi_label else draw_all(tmp_path / "again", "svg", spec, tested, rows)
    # The first video has no intervals, the second no windows.
    timelines = ["timeline_v_2", "timeline_v_3", "timeline_v_4"]
    confusion = [] if is_multi_label else ["confusion"]
    assert [path.name.split(".")[1] for path in written] == [*confusion, "classes", "reliability", *timelines]
    texts = {path.name.split(".")[1]: re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text()) for path in written}
    assert "red  (2)" in texts["classes"] and not any("grey" in text for text in texts["classes"])  # a class of no clip
    assert any(text.startswith("calibration error 0.") for text in texts["reliability"])
    names = [text for text in texts["timeline_v_2"] if text in CLASSES]
    assert names[0] == "blue" and set(names) == set(CLASSES)  # true classes come first
    if not is_multi_label:
        counts = [int(text) for text in texts["confusion"] if re.fullmatch(r"\d", text)]
        assert sum(counts) == 5 and {"predicted", "true", *CLASSES} <= set(texts["confusion"])
        assert [path.read_bytes() for path in again] == [path.read_bytes() for path in written]


EVIL = ("</text><script> & -->", r"$\frac$ for 5$", "bell\x07\x1b[2J\0 of \ud800\ufffe\nlines", "x" * 9000)
DRAWN = ("</text><script> & -->", r"$\frac$ for 5$", r"bell\x07\x1b[2J\x00 of \ud800\ufffe lines", "x" * 79 + "…")


def test_class_names_and_keys_of_any_origin_are_drawn_literally(tmp_path: Path) -> None:
    spec, tested, rows = scored(is_multi_label=False)
    spec = spec.model_copy(update={"classes": EVIL})
    rows = [{**row, "class": name} for row, name in zip(rows, EVIL, strict=True)]
    videos = tuple(replace(video, key=EVIL[number - 1]) for number, video in enumerate(tested.videos))
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        written = draw_all(tmp_path / "set", "svg", spec, replace(tested, videos=videos), rows)
    texts = [{each.text for each in ElementTree.parse(path).getroot().iter()} for path in written]
    assert set(DRAWN) <= texts[0]
    assert {f"{DRAWN[0]}  (2)", f"{DRAWN[2]}  (2)"} <= texts[1]
    for key, drawn in zip(DRAWN[1:], texts[3:], strict=True):
        assert set(DRAWN) < drawn
        assert any(str(text).startswith(f"{key}: predicted") for text in drawn)
