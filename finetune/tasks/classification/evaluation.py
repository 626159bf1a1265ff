"""Evaluates a classification on shards: every clip exactly once, whatever the number of ranks.

The figures of a test of classes, each with the interval that drawing the videos again leaves.

Legend: N videos, W clips of all of them, T instants of all of them, K classes, R drawn sets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trichord.finetune.bootstrap import DRAWS, Figures, Weights, intervals, once
from trichord.finetune.config import FinetuneConfig
from trichord.finetune.tasks.classification import charades
from trichord.finetune.tasks.classification.metrics import (
    EACH_CLASS,
    Values,
    average_precisions,
    class_rows,
    figures_of,
    known,
    mean_of_classes,
    reliability,
)
from trichord.finetune.tasks.classification.metrics import measure as measure_classes
from trichord.finetune.tasks.classification.model import Classification
from trichord.finetune.tasks.classification.scoring import Scored, score
from trichord.finetune.tasks.classification.spec import ClassificationSpec
from trichord.pretrain.engine.distributed import World
from trichord.shards.record import labels_within

Draw = Callable[..., list[Path]]


def evaluate(
    config: FinetuneConfig, objective: Classification, world: World, draw: Draw | None = None
) -> dict[str, Any]:
    """Tell the classes of every clip once, and on the first rank how right they are, drawn if there is a way to."""
    tested = score(config, objective, world)
    found = {
        "clips": len(tested.scores_NK),
        "bad": tested.bad,
        **({"silent": tested.silent} if "audio" in objective.spec.inputs else {}),
        "views": objective.spec.views_words,
    }
    if world.rank == 0:
        measured = measure(objective.spec, tested, config.seed)
        found |= asdict(measured)
        if draw is not None:
            found["pictures"] = [path.name for path in draw(objective.spec, tested, measured.classes)]
    return found


ALIKE = "scores alike"  # the column of the control
_DRAWS_OF_INSTANTS = 200  # of which each video has many


@dataclass(frozen=True)
class Measured:
    """Figures by name, a row for each with its interval, and a row for each class."""

    metrics: dict[str, Any]
    figures: list[dict[str, Any]]
    classes: list[dict[str, Any]]
    notes: tuple[str, ...]


def measure(spec: ClassificationSpec, tested: Scored, seed: int) -> Measured:
    """Measure what was tested."""
    scores_NK, truths_NK = tested.scores_NK, tested.truths_NK
    metrics, per_class = measure_classes(scores_NK, truths_NK, spec.is_multi_label)
    classes = class_rows(spec.names, truths_NK, per_class, spec.is_multi_label)
    ends = intervals(figures_of(scores_NK, truths_NK, spec.is_multi_label), len(scores_NK), seed)
    for row, low, high in zip(classes, *(known(each) for each in ends.pop(EACH_CLASS)), strict=True):
        row |= {"low": low, "high": high}
    told = reliability(scores_NK, truths_NK, spec.is_multi_label).figures
    for figures, draws in [(told, DRAWS), *(_in_time(spec, tested) if spec.is_multi_label else [])]:
        metrics |= {name: known(values)[0] for name, values in figures(once(len(scores_NK))).items()}
        ends |= intervals(figures, len(scores_NK), seed, draws)
    alike = _scores_alike(spec, tested) if spec.is_multi_label else {}
    rows = []
    for name, value in metrics.items():
        low, high = known(ends[name]) if name in ends else (None, None)
        beside = {ALIKE: alike.get(name)} if alike else {}
        rows.append({"metric": name, "value": value, "low": low, "high": high, **beside})
    return Measured(metrics, rows, classes, _notes(spec, tested))


def _scores_alike(spec: ClassificationSpec, tested: Scored) -> dict[str, float | None]:
    """Give the figures of a head that has the same to say of all videos: what is equal stands in the set's order."""
    videos = tuple(replace(video, given_CK=torch.zeros_like(video.given_CK)) for video in tested.videos)
    told = replace(tested, scores_NK=np.zeros_like(tested.scores_NK), videos=videos)
    figures = [figures_of(told.scores_NK, told.truths_NK, spec.is_multi_label)]
    figures += [each for each, _ in _in_time(spec, told)]
    sets = once(len(told.scores_NK))
    return {name: known(values)[0] for each in figures for name, values in each(sets).items() if name != EACH_CLASS}


def _in_time(spec: ClassificationSpec, tested: Scored) -> list[tuple[Figures, int]]:
    """Give what tells the official figures, and those of moments where any video says when what happens."""
    found = [(charades.classification(tested.scores_NK, tested.truths_NK), DRAWS)]
    if not any(video.intervals for video in tested.videos):
        return found
    moments = [(video, charades.instants(video.duration_s)) for video in tested.videos]
    scores_TK = torch.cat([video.scores_at(instants_T, spec) for video, instants_T in moments]).numpy()
    truths_TK = np.concatenate(
        [charades.truths_at(instants_T, video.intervals, spec.count) for video, instants_T in moments]
    )
    return [
        *found,
        (charades.localisation(scores_TK, truths_TK), _DRAWS_OF_INSTANTS),
        (_of_windows(spec, tested), _DRAWS_OF_INSTANTS),
    ]


def _of_windows(spec: ClassificationSpec, tested: Scored) -> Figures:
    """Give what tells how right each clip is of its own stretch of time."""
    scores_WK = torch.cat([video.clip_scores(spec) for video in tested.videos]).numpy()
    truths_WK = np.zeros(scores_WK.shape, dtype=np.bool_)
    stretches = [(video, *clip_s) for video in tested.videos for clip_s in video.clips_s]
    for row, (video, start_s, end_s) in enumerate(stretches):
        truths_WK[row, list(labels_within(video.intervals, start_s, end_s))] = True
    precisions = average_precisions(scores_WK, truths_WK)
    clips_N = [len(video.clips_s) for video in tested.videos]

    def of(weights_RN: Weights) -> dict[str, Values]:
        return {"mAP_of_windows": mean_of_classes(precisions(np.repeat(weights_RN, clips_N, axis=1)))}

    return of


def _notes(spec: ClassificationSpec, tested: Scored) -> tuple[str, ...]:
    notes = [f"intervals: 95 % of {DRAWS} sets of clips drawn again ({_DRAWS_OF_INSTANTS} for figures of moments)"]
    if spec.is_multi_label:
        notes.append(f"{ALIKE}: what a head would get that says the same of every video")
        without = int((~tested.truths_NK.any(axis=1)).sum())
        notes.append(
            f"mAP: scikit-learn's, all clips count; _charades: the official rules, by which the {without} without any "
            f"class can be no false positive, and localisation looks at {charades.INSTANTS} instants of each"
        )
    return tuple(notes)
