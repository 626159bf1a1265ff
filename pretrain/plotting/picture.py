"""Draws runs as a PNG or SVG: one panel per figure, one colour per run, the raw curve pale behind the smoothed one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from trichord.core.console import printable
from trichord.core.files import whole_file
from trichord.pretrain.plotting.series import COLOURS, AxisName, Panel, Run, Values, smooth, window_of

DASHES = ("-", "--", ":", "-.")  # the next one after each seven runs
INK, FAINT, GRID = "#1a1c20", "#6b7078", "#e6e8eb"
_PANEL_INCHES = (4.8, 2.75)
_MOST_LAST_VALUES = 3
_LONGEST_NAME = 80
_SPIKE = 4.0  # the range of the raw points may grow by at most this factor to show a curve; the rest is cut off
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": "#c6c9ce",
    "axes.labelcolor": FAINT,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "svg.hashsalt": "trichord",  # the same runs produce the same file
}


def draw_picture(path: Path, runs: Sequence[Run], panels: Sequence[Panel], axis: AxisName, points: int | None) -> None:
    """Draw all panels in one figure and save it in the format of the path's suffix."""
    matplotlib.use("Agg")
    columns = len(panels) if len(panels) < 4 else 2 if len(panels) == 4 else 3
    lines = -(-len(panels) // columns)
    with matplotlib.rc_context(STYLE):
        width, height = _PANEL_INCHES
        figure, axes = pyplot.subplots(
            lines,
            columns,
            figsize=(width * columns, height * lines + 0.45),
            squeeze=False,
            layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.02, hspace=0.03),
        )
        for index, place in enumerate(axes.flat):
            if index < len(panels):
                _draw_panel(place, runs, panels[index], axis, points)
                if index + columns >= len(panels):
                    place.set_xlabel("hours of running" if axis == "hours" else axis)
            else:
                place.set_visible(False)
        handles = [
            Line2D([], [], lw=2.4, label=drawable(run.name), **_line_style(index)) for index, run in enumerate(runs)
        ]
        figure.legend(
            handles=handles, loc="outside upper left", ncols=min(len(runs), 2 * columns), frameon=False, fontsize=10.5
        )
        save(figure, path)


def drawable(name: str) -> str:
    """Return a name of any origin as matplotlib draws it literally: on one line, not too long, and not as a formula."""
    line = printable(" ".join(name.split()))
    line = line if len(line) <= _LONGEST_NAME else f"{line[: _LONGEST_NAME - 1]}…"
    return line.replace("$", r"\$")


def save(figure: Figure, path: Path) -> None:
    """Save a figure in the format of the path's suffix, without a date, so that the same data gives the same file."""
    kind = path.suffix[1:].lower()
    try:
        with whole_file(path) as file:
            figure.savefig(file, format=kind, dpi=140, metadata={"Date": None} if kind == "svg" else None)
    finally:
        pyplot.close(figure)


def limits(curves: Sequence[Values], raw: Sequence[Values], from_zero: bool) -> tuple[float, float] | None:
    """Return a range that shows the curves and all but the rarest raw points; extreme spikes are cut off."""
    known = [values[np.isfinite(values)] for values in raw]
    usual = [np.quantile(values, [0.01, 0.99]) for values in known if len(values)]
    if not usual:
        return None
    low, high = float(np.min(usual)), float(np.max(usual))
    most = (_SPIKE - 1) / 2 * (high - low) or np.inf
    low = max(low - most, min(low, *(float(np.nanmin(values)) for values in curves if np.isfinite(values).any())))
    high = min(high + most, max(high, *(float(np.nanmax(values)) for values in curves if np.isfinite(values).any())))
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return (0.0 if from_zero and low >= 0 else low - room), high + room


def _draw_panel(place: Axes, runs: Sequence[Run], panel: Panel, axis: AxisName, points: int | None) -> None:
    raw, curves, lasts = [], [], []
    for index, run in enumerate(runs):
        values = panel.values(run)
        if values is None:
            continue
        window = 1 if panel.is_schedule else window_of(run, points)
        curve = smooth(values, window)
        x = run.axis(axis)
        mark = "o" if np.isfinite(values).sum() == 1 else None
        if window > 1:
            place.plot(x, values, color=COLOURS[index % len(COLOURS)], lw=0.8, alpha=0.25)
        place.plot(x, curve, lw=1.7, marker=mark, ms=4, solid_joinstyle="round", **_line_style(index))
        raw.append(values)
        curves.append(curve)
        known = curve[np.isfinite(curve)]
        if len(known):
            lasts.append((float(known[-1]), COLOURS[index % len(COLOURS)]))
    title = drawable(panel.title)
    place.set_title(f"{title} ({panel.unit})" if panel.unit else title, loc="left", fontsize=10.5)
    _write_last_values(place, lasts)
    if panel.is_logarithmic:
        place.set_yscale("log")
    else:
        # For figures with a unit, zero is meaningful.
        found = limits(curves, raw, from_zero=bool(panel.unit))
        if found:
            place.set_ylim(*found)
        place.yaxis.set_major_formatter(short_number)
    place.xaxis.set_major_formatter(short_number)
    place.tick_params(length=0)
    place.margins(x=0.01)


def _write_last_values(place: Axes, lasts: Sequence[tuple[float, str]]) -> None:
    """Write each run's last value above the panel's right end, in its colour."""
    if not 0 < len(lasts) <= _MOST_LAST_VALUES:
        return
    words = [f"{value:.4g}" if abs(value) >= 1 else f"{value:.3g}" for value, _ in lasts]
    for index, (_, colour) in enumerate(lasts):
        behind = sum(len(word) + 2 for word in words[index + 1 :])
        offset = (-5.6 * behind, 5)
        place.annotate(
            words[index],
            (1, 1),
            xycoords="axes fraction",
            xytext=offset,
            textcoords="offset points",
            ha="right",
            color=colour,
            fontsize=9.5,
            fontweight="bold",
        )


def _line_style(index: int) -> dict[str, Any]:
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[index // len(COLOURS) % len(DASHES)],
    }


def short_number(value: float, _: object = None) -> str:
    """Format a number on an axis."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"
