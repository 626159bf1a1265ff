"""Zero-shot tests of a model of video and text on shard sets, with class names only and every clip once.

Several sets are splits of one data set, and several draws are draws of one set's classes: the tables of figures end
with their mean and standard deviation (of a sample, with n - 1). Weights can be interpolated between zero-shot ones a
and fine-tuned ones b: (1 - alpha) a + alpha b (WiSE-FT, Wortsman et al. 2022).
Legend: N clips, B of a batch, V views, P prompts, K classes.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trichord.core.errors import UserError
from trichord.finetune.evaluation.bootstrap import intervals
from trichord.finetune.evaluation.gather import gather_each_once
from trichord.finetune.evaluation.report import write_report
from trichord.finetune.tasks.classification.metrics import Scores, Truths, class_rows, figures_of, known, measure
from trichord.finetune.zeroshot.candidates import Candidates, ClassDraws, candidates_of, read_names
from trichord.finetune.zeroshot.classifier import Classifier, Recogniser, probabilities
from trichord.finetune.zeroshot.loading import TrainedVideoText
from trichord.finetune.zeroshot.spec import ZeroShotSpec
from trichord.pretrain.engine.distributed import World
from trichord.pretrain.weights.naming import shortened
from trichord.shards.reading.batch import Batch
from trichord.shards.reading.stream_config import SourceConfig, StreamConfig
from trichord.shards.record import LabelRule

_MEASURED = ("top1", "top5", "mAP", "top1_mean_of_classes")


@dataclass(frozen=True)
class ZeroShotTest:
    """The sets to test on, the candidate classes, and how the sets are read."""

    data: tuple[str, ...]
    lists: tuple[Path, ...] = ()
    draws: ClassDraws | None = None
    known: Path | None = None  # a set, or a list, of classes to exclude
    batch_size: int = 8  # of each rank
    workers: int = 0
    cache: Path | None = None

    def stream(self, root: str) -> StreamConfig:
        """Return the settings for reading one set."""
        return StreamConfig(
            sources=(SourceConfig(root=root),),
            batch_size=self.batch_size,
            workers=self.workers,
            cache_dir=self.cache,
        )


@dataclass(frozen=True)
class ZeroShotResult:
    """Results on one set, for some candidate classes and the weights of one alpha."""

    root: str
    digest: str
    candidates: Candidates
    names: tuple[str, ...]  # of the candidates
    alpha: float
    scores_NK: Scores
    truths_NK: Truths
    is_multi_label: bool
    bad: int


class EvaluatedWeights:
    """The weights to test: a model's own, or several interpolated between zero-shot weights and its own."""

    def __init__(self, recogniser: Recogniser, zero_shot: TrainedVideoText | None, alphas: Sequence[float]) -> None:
        self.recogniser, self.alphas = recogniser, tuple(dict.fromkeys(alphas)) if zero_shot else (1.0,)
        self._between = WeightInterpolation(recogniser.model, zero_shot.model.state_dict()) if zero_shot else None

    def go_to(self, alpha: float) -> None:
        """Set the model's weights to those of an alpha."""
        if self._between is not None:
            self._between.go_to(alpha)

    def classifiers(self, names: Sequence[str], spec: ZeroShotSpec) -> dict[float, Classifier]:
        """Return a classifier of the classes for each alpha."""
        found = {}
        for alpha in self.alphas:
            self.go_to(alpha)
            found[alpha] = self.recogniser.classifier(names, spec)
        return found


def evaluate(weights: EvaluatedWeights, spec: ZeroShotSpec, test: ZeroShotTest, world: World) -> list[ZeroShotResult]:
    """Test on all sets; all ranks take part and get the same results."""
    results = [each for root in test.data for each in _evaluate_one(weights, spec, test, root, world)]
    # All splits use one measure: average precision if any of them has clips of several classes or of none.
    is_multi_label = any(each.is_multi_label for each in results)
    return [replace(each, is_multi_label=is_multi_label) for each in results]


def _evaluate_one(
    weights: EvaluatedWeights, spec: ZeroShotSpec, test: ZeroShotTest, root: str, world: World
) -> list[ZeroShotResult]:
    config = test.stream(root)
    (source,) = config.open_sources()
    names = source.manifest.classes
    if not names:
        raise UserError(f"{root} does not name its classes: its manifest.json must list them under classes")
    known = read_names(test.known) if test.known else ()
    candidates = candidates_of(names, test.lists, test.draws, known)
    asked = sorted({number for each in candidates for number in each.numbers})
    places = [torch.tensor([asked.index(number) for number in each.numbers]) for each in candidates]
    classifiers = weights.classifiers([names[number] for number in asked], spec)

    def rows_of(batch: Batch) -> dict[str, Tensor]:
        found = {"truths": _truths(batch, len(names))}
        for alpha, classifier in classifiers.items():
            weights.go_to(alpha)
            logits_VPBK = weights.recogniser.logits(batch.video, classifier)
            for turn, among in enumerate(places):
                among_these = logits_VPBK.index_select(-1, among.to(logits_VPBK.device))
                found[f"{alpha} {turn}"] = probabilities(among_these, spec)
        return found

    clips = weights.recogniser.opened.transforms.sample_spec(spec)
    clips = clips.model_copy(update={"label_rule": LabelRule(classes=len(names))})
    gathered = gather_each_once(config, clips, world, rows_of)
    truths_NK = gathered.rows["truths"] > 0
    is_multi_label = bool((truths_NK.sum(axis=1) != 1).any())
    results = []
    for turn, each in enumerate(candidates):
        chosen = list(each.numbers)
        # A clip without a class is a negative of all classes if all are candidates; otherwise it is left out.
        kept_N = truths_NK[:, chosen].any(axis=1) | (len(chosen) == len(names))
        if not kept_N.any():
            raise UserError(f"{root} has no clip of the classes of {each.title}")
        of_these = tuple(names[number] for number in chosen)
        for alpha in weights.alphas:
            scores_NK = gathered.rows[f"{alpha} {turn}"][kept_N]
            about = (root, source.manifest.digest(), each, of_these, alpha)
            results.append(
                ZeroShotResult(*about, scores_NK, truths_NK[kept_N][:, chosen], is_multi_label, gathered.bad)
            )
    return results


def _truths(batch: Batch, classes: int) -> Tensor:
    truths_BK = torch.zeros(len(batch.key), classes, dtype=torch.uint8)
    for row, labels in enumerate(batch.labels):
        truths_BK[row, list(labels)] = 1
    return truths_BK


def table(results: Sequence[ZeroShotResult]) -> list[dict[str, Any]]:
    """Return a row for each set, draw and alpha; with several sets or draws, also the mean and standard deviation."""
    several = len({each.alpha for each in results}) > 1
    found: list[dict[str, Any]] = []
    for alpha in sorted({each.alpha for each in results}):
        with_alpha = {"alpha": alpha} if several else {}
        rows = []
        for each in results:
            if each.alpha != alpha:
                continue
            metrics, _ = measure(each.scores_NK, each.truths_NK, each.is_multi_label)
            about = {"data": each.root, "classes": each.candidates.title, **with_alpha}
            counts = {"clips": len(each.scores_NK), "bad": each.bad}
            figures = {name: metrics[name] for name in _MEASURED if name in metrics}
            rows.append({**about, **counts, **figures, **_ends(each, next(iter(figures)))})
        found += [*rows, *_summaries(rows, with_alpha)]
    return found


def _ends(result: ZeroShotResult, name: str) -> dict[str, float | None]:
    """Return the bootstrap interval of a figure: its middle 95 % over resampled sets of as many clips."""
    figures = figures_of(result.scores_NK, result.truths_NK, result.is_multi_label)
    low, high = known(intervals(figures, len(result.scores_NK), seed=0)[name])
    return {f"{name} low": low, f"{name} high": high}


def _summaries(rows: Sequence[dict[str, Any]], with_alpha: dict[str, float]) -> list[dict[str, Any]]:
    if len(rows) < 2:
        return []
    columns = {
        name: [row[name] for row in rows] for name in _MEASURED if all(row.get(name) is not None for row in rows)
    }
    means = {name: statistics.fmean(column) for name, column in columns.items()}
    deviations = {name: statistics.stdev(column) for name, column in columns.items()}
    return [
        {"data": f"mean of {len(rows)}", "classes": "", **with_alpha, **means},
        {"data": "standard deviation", "classes": "", **with_alpha, **deviations},
    ]


def write_reports(folder: Path, name: str, found: dict[str, Any], results: Sequence[ZeroShotResult]) -> list[Path]:
    """Write a report for each alpha, with the common entries and its own figures; return the files."""
    written: list[Path] = []
    alphas = sorted({each.alpha for each in results})
    for alpha in alphas:
        own = [each for each in results if each.alpha == alpha]
        model = {**found["model"], "alpha": alpha} if len(alphas) > 1 else found["model"]
        report = {**found, "model": model, **_report(own)}
        written += write_report(folder, f"{name}_alpha_{alpha:g}" if len(alphas) > 1 else name, report)
    return written


def _report(own: Sequence[ZeroShotResult]) -> dict[str, Any]:
    rows = table(own)
    main = rows[0] if len(own) == 1 else rows[len(own)]  # the mean
    found: dict[str, Any] = {
        "clips": sum(len(each.scores_NK) for each in own),
        "bad": sum({each.root: each.bad for each in own}.values()),
        "data_digests": list({each.root: each.digest for each in own}.values()),
        "metrics": {name: main[name] for name in _MEASURED if name in main},
        "sets": rows,
        "candidates": {f"{each.root}, {each.candidates.title}": list(each.names) for each in own},
    }
    if len(own) == 1:
        (only,) = own
        _, per_class = measure(only.scores_NK, only.truths_NK, only.is_multi_label)
        found["classes"] = class_rows(only.names, only.truths_NK, per_class, only.is_multi_label)
    return found


class WeightInterpolation:
    """A fine-tuned model whose weights can be interpolated with zero-shot weights of the same shapes."""

    def __init__(self, model: nn.Module, zero_shot: Mapping[str, Tensor]) -> None:
        self._places = model.state_dict(keep_vars=True)
        _check_same_shape(zero_shot, self._places)
        self._zero_shot = {name: zero_shot[name].to(place.device) for name, place in self._places.items()}
        self._fine_tuned = {name: place.detach().clone() for name, place in self._places.items()}

    @torch.no_grad()
    def go_to(self, alpha: float) -> None:
        """Set the weights: 0 is zero-shot, 1 fine-tuned; integer tensors, such as counts, stay fine-tuned."""
        for name, place in self._places.items():
            if place.is_floating_point():
                place.copy_(self._zero_shot[name]).lerp_(self._fine_tuned[name], alpha)


def _check_same_shape(zero_shot: Mapping[str, Tensor], fine_tuned: Mapping[str, Tensor]) -> None:
    names = sorted(zero_shot.keys() | fine_tuned.keys())
    alone = [name for name in names if name not in zero_shot or name not in fine_tuned]
    differ = [name for name in names if name not in alone and zero_shot[name].shape != fine_tuned[name].shape]
    if alone or differ:
        raise UserError(
            f"weights of different shapes cannot be interpolated: {shortened(alone) or 'nothing'} only in one of "
            f"them, {shortened(differ) or 'nothing'} of another shape. Expected the weights that fine-tuning started "
            "from, in the same backbone"
        )
