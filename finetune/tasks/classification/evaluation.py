"""Evaluates a classification on shards, every clip exactly once, for any number of ranks.

Each metric has an interval from resampling the videos.
Legend: N videos, W clips of all of them, T instants of all of them, K classes, R resampled sets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trichord.finetune.config import FinetuneConfig
from trichord.finetune.evaluation.bootstrap import DRAWS, Figures, Weights, intervals, once
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
    """Score every clip once; on rank 0, also compute the metrics and call `draw` to plot them, if given."""
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


ALIKE = "scores alike"  # the column of the control, whose scores are equal for all videos
_DRAWS_OF_INSTANTS = 200  # fewer, since each video has many instants


@dataclass(frozen=True)
class ClassificationMetrics:
    """Metrics by name, a row for each with its interval, and a row for each class."""

    metrics: dict[str, Any]
    figures: list[dict[str, Any]]
    classes: list[dict[str, Any]]
    notes: tuple[str, ...]


def measure(spec: ClassificationSpec, tested: Scored, seed: int) -> ClassificationMetrics:
    """Compute all metrics of scored videos."""
    scores_NK, truths_NK = tested.scores_NK, tested.truths_NK
    metrics, per_class = measure_classes(scores_NK, truths_NK, spec.is_multi_label)
    classes = class_rows(spec.names, truths_NK, per_class, spec.is_multi_label)
    ends = intervals(figures_of(scores_NK, truths_NK, spec.is_multi_label), len(scores_NK), seed)
    for row, low, high in zip(classes, *(known(each) for each in ends.pop(EACH_CLASS)), strict=True):
        row |= {"low": low, "high": high}
    calibration = reliability(scores_NK, truths_NK, spec.is_multi_label).figures
    for figures, draws in [(calibration, DRAWS), *(_in_time(spec, tested) if spec.is_multi_label else [])]:
        metrics |= {name: known(values)[0] for name, values in figures(once(len(scores_NK))).items()}
        ends |= intervals(figures, len(scores_NK), seed, draws)
    alike = _scores_alike(spec, tested) if spec.is_multi_label else {}
    rows = []
    for name, value in metrics.items():
        low, high = known(ends[name]) if name in ends else (None, None)
        control = {ALIKE: alike.get(name)} if alike else {}
        rows.append({"metric": name, "value": value, "low": low, "high": high, **control})
    return ClassificationMetrics(metrics, rows, classes, _notes(spec, tested))


def _scores_alike(spec: ClassificationSpec, tested: Scored) -> dict[str, float | None]:
    """Return the metrics of a head with equal scores for all videos; ties are in the order of the data set."""
    videos = tuple(replace(video, given_CK=torch.zeros_like(video.given_CK)) for video in tested.videos)
    constant = replace(tested, scores_NK=np.zeros_like(tested.scores_NK), videos=videos)
    figures = [figures_of(constant.scores_NK, constant.truths_NK, spec.is_multi_label)]
    figures += [each for each, _ in _in_time(spec, constant)]
    sets = once(len(constant.scores_NK))
    return {name: known(values)[0] for each in figures for name, values in each(sets).items() if name != EACH_CLASS}


def _in_time(spec: ClassificationSpec, tested: Scored) -> list[tuple[Figures, int]]:
    """Return functions of the official metrics, and of those over time if any video has intervals, with their draws."""
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
    """Return the function of the metric of each clip against the labels within its own time span."""
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
    notes = [
        f"intervals: middle 95 % of {DRAWS} resampled sets of clips ({_DRAWS_OF_INSTANTS} for metrics of windows and "
        "instants)"
    ]
    if spec.is_multi_label:
        notes.append(f"{ALIKE}: the metric of a head with equal scores for every video")
        without = int((~tested.truths_NK.any(axis=1)).sum())
        notes.append(
            "mAP: as in scikit-learn, all clips count; _charades: the official rules, by which clips without any class "
            f"({without} here) cannot be false positives, and localisation uses {charades.INSTANTS} instants of a clip"
        )
    return tuple(notes)
