"""Plots of a classification's evaluation, PNG or SVG: confusion, class metrics, reliability, scores over time.

Legend: N videos, K classes, T instants, b bins of probabilities.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trichord.finetune.evaluation.bootstrap import once
from trichord.finetune.tasks.classification.metrics import BINS, Reliability, Scores, Truths, Values, reliability
from trichord.finetune.tasks.classification.scoring import Scored, ScoredVideo
from trichord.finetune.tasks.classification.spec import ClassificationSpec
from trichord.pretrain.plotting.picture import FAINT, INK, STYLE, drawable, save, short_number
from trichord.pretrain.plotting.series import COLOURS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[dict[str, Any]]
_NAMED_CLASSES, _WRITTEN_CLASSES = 40, 12  # up to which names, and numbers in cells, are readable
_ROWS = 40  # of bars in a column
_INSTANTS = 400
_SHOWN_CLASSES = 10  # in a timeline
_TIMELINES = 3
_LONGEST_KEY = 120  # bytes in the name of a file
_BLUE, _ORANGE = COLOURS[0], COLOURS[1]


@contextmanager
def _sheet(path: Path, width: float, height: float, **layout: Any) -> Iterator[tuple[Figure, Any]]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(width, height), squeeze=False, layout="constrained", **layout)
        yield figure, axes
        save(figure, path)


def draw_all(stem: Path, ending: str, spec: ClassificationSpec, tested: Scored, rows: Rows) -> list[Path]:
    """Draw all plots of an evaluation, as files whose names begin with `stem`; `rows` are those of the classes."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []

    def path(what: str) -> Path:
        written.append(stem.with_name(f"{stem.name}.{what}.{ending}"))
        return written[-1]

    if not spec.is_multi_label:
        draw_confusion(path("confusion"), spec.names, tested.scores_NK, tested.truths_NK)
    draw_classes(path("classes"), rows, "average_precision" if spec.is_multi_label else "top1")
    draw_reliability(path("reliability"), reliability(tested.scores_NK, tested.truths_NK, spec.is_multi_label))
    for video in _choose_for_timelines(tested.videos):
        draw_timeline(path(f"timeline_{_file_name(video.key)}"), video, spec)
    return written


def _choose_for_timelines(videos: Sequence[ScoredVideo]) -> list[ScoredVideo]:
    """Return the first videos that have intervals and were scored in more than one window."""
    found = (video for video in videos if video.intervals and len(set(video.clips_s)) > 1)
    return list(islice(found, _TIMELINES))


def _file_name(key: str) -> str:
    """Return a key as a part of a file name, of which only the end is kept if it is too long for one."""
    return re.sub(r"[^\w.=+-]", "_", key).encode()[-_LONGEST_KEY:].decode(errors="ignore")


def draw_confusion(path: Path, names: Sequence[str], scores_NK: Scores, truths_NK: Truths) -> None:
    """Draw the confusion matrix, as shares of each true class's clips."""
    classes, names = len(names), [drawable(name) for name in names]
    counts_KK = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts_KK, (truths_NK.argmax(axis=1), scores_NK.argmax(axis=1)), 1)
    shares_KK = counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1)
    is_named = classes <= _NAMED_CLASSES
    side = 1.2 + min(classes, 60) * 0.22 + (0.075 * max(map(len, names)) if is_named else 0)
    with _sheet(path, side + 1.4, side) as (figure, axes):
        place = axes[0, 0]
        drawn = place.imshow(shares_KK, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        place.grid(visible=False)
        place.set_xlabel("predicted")
        place.set_ylabel("true")
        if is_named:
            place.set_xticks(range(classes), names, rotation=90)
            place.set_yticks(range(classes), names)
        if classes <= _WRITTEN_CLASSES:
            for row, column in zip(*np.nonzero(counts_KK), strict=True):
                colour = "white" if shares_KK[row, column] > 0.55 else INK
                place.text(column, row, str(counts_KK[row, column]), ha="center", va="center", color=colour, fontsize=8)
        place.tick_params(length=0)
        figure.colorbar(drawn, ax=place, shrink=0.6, label="share of the class's clips")


def draw_classes(path: Path, rows: Rows, measured: str) -> None:
    """Draw each class's metric with its interval, the highest first; classes without clips are left out."""
    kept = sorted((row for row in rows if row[measured] is not None), key=lambda row: -row[measured])
    columns = max(1, -(-len(kept) // _ROWS))
    with _sheet(path, 5.2 * columns, 0.9 + 0.2 * min(max(len(kept), 1), _ROWS), ncols=columns) as (figure, axes):
        for place, first in zip(axes.flat, range(0, max(len(kept), 1), _ROWS), strict=True):
            _draw_bars(place, kept[first : first + _ROWS], measured)
            place.set_ylim(min(len(kept), _ROWS) - 0.4, -0.6)  # equally thick bars in all columns
        figure.supxlabel(f"{measured.replace('_', ' ')}, with the middle 95 % of resampled sets", fontsize=9)


def _draw_bars(place: Axes, rows: Rows, measured: str) -> None:
    values = np.array([row[measured] for row in rows], dtype=np.float64)
    ends = np.array([[row["low"], row["high"]] for row in rows], dtype=np.float64).reshape(-1, 2)
    places = np.arange(len(rows))
    place.barh(places, values, color=_BLUE, height=0.72, alpha=0.85)
    place.hlines(places, ends[:, 0], ends[:, 1], color=INK, lw=1.0)
    place.set_yticks(places, [f"{drawable(row['class'])}  ({row['clips']})" for row in rows])
    place.set_xlim(0, 1)
    place.grid(visible=False, axis="y")
    place.tick_params(length=0)


def draw_reliability(path: Path, found: Reliability) -> None:
    """Draw the share of true predictions and the number of predictions by predicted probability."""
    with _sheet(path, 4.4, 5.0, nrows=2, sharex=True, height_ratios=(3, 1)) as (_, axes):
        upper, lower = axes[:, 0]
        counts_b, predicted_b, true_b = found.all
        has = counts_b > 0
        (error,) = found.figures(once(len(found.counts_Nb)))["calibration_error"]
        upper.plot((0, 1), (0, 1), color=FAINT, lw=1, ls=":")
        upper.plot(predicted_b[has], true_b[has], color=_BLUE, lw=1.7, marker="o", ms=4, clip_on=False)
        upper.set_ylim(0, 1)
        upper.set_ylabel("observed frequency")
        upper.set_title(f"calibration error {error:.3f}", loc="left", fontsize=10.5)
        lower.bar((np.arange(BINS) + 0.5) / BINS, counts_b, width=0.9 / BINS, color=_BLUE, alpha=0.85)
        lower.set_yscale("log")
        lower.set_ylim(bottom=0.8)
        lower.yaxis.set_major_formatter(short_number)
        lower.yaxis.set_minor_formatter(lambda *_: "")
        lower.set_ylabel(found.what)
        lower.set_xlabel("predicted probability")
        lower.set_xlim(0, 1)
        for place in (upper, lower):
            place.tick_params(length=0, which="both")


def draw_timeline(path: Path, video: ScoredVideo, spec: ClassificationSpec) -> None:
    """Draw probabilities over time and true intervals of a video's true or most probable classes."""
    instants_T = (np.arange(_INSTANTS, dtype=np.float64) + 0.5) * (video.duration_s / _INSTANTS)
    scores_TK = video.scores_at(instants_T, spec).numpy()
    shown = _shown(scores_TK, video)
    with _sheet(path, 8.0, 1.1 + 0.42 * len(shown)) as (figure, axes):
        place = axes[0, 0]
        for row, label in enumerate(shown):
            extent = (0.0, video.duration_s, row + 0.24, row - 0.36)
            style = {"cmap": "Blues", "vmin": 0, "vmax": 1, "interpolation": "none"}
            drawn = place.imshow(scores_TK[None, :, label], extent=extent, aspect="auto", **style)
            spans = [(each.start, each.end - each.start) for each in video.intervals if each.label == label]
            place.broken_barh(spans, (row + 0.26, 0.12), color=_ORANGE, lw=0)
        place.set_yticks(range(len(shown)), [drawable(spec.names[label]) for label in shown])
        place.set_ylim(len(shown) - 0.5, -0.5)
        place.set_xlim(0, video.duration_s)
        place.grid(visible=False)
        place.tick_params(length=0)
        place.set_xlabel("seconds")
        title = f"{drawable(video.key)}: predicted probability (blue) and true intervals (orange)"
        place.set_title(title, loc="left", fontsize=10.5)
        figure.colorbar(drawn, ax=place, shrink=0.9, pad=0.01)


def _shown(scores_TK: Values, video: ScoredVideo) -> list[int]:
    """Choose the classes to show: true ones first, then the others, both by highest probability."""
    order = np.argsort(-scores_TK.max(axis=0), kind="stable").tolist()
    true = {each.label for each in video.intervals}
    return sorted(order, key=lambda label: label not in true)[: max(_SHOWN_CLASSES, len(true))]
