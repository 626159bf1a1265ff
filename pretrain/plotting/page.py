"""Writes the curves of runs as an HTML page: one file that contains data and code and needs no network."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trichord.core.console import printable
from trichord.core.files import write_whole
from trichord.pretrain.plotting.series import AXES, COLOURS, AxisName, Panel, Run, Values, thin, window_of

MOST_POINTS = 2000  # of a curve: more than a screen has pixel columns
_AXIS_DIGITS = 9  # steps and samples of long runs stay exact
_DIGITS = 6


def draw_page(path: Path, runs: Sequence[Run], panels: Sequence[Panel], axis: AxisName, points: int | None) -> None:
    """Write the page atomically: a browser that reloads it gets the old or the new version, never a part."""
    page = make_page(runs, panels, axis, points)
    write_whole(path, page.encode("utf-8", "replace"))  # names of files and figures may hold half a surrogate pair


def make_page(runs: Sequence[Run], panels: Sequence[Panel], axis: AxisName, points: int | None) -> str:
    """Return the page's HTML."""
    title = ", ".join(run.name for run in runs[:3]) + (f" and {len(runs) - 3} more" if len(runs) > 3 else "")
    data = page_data(runs, panels, axis, points)
    # Only a closing tag ends a script, so no run name may contain one.
    inline = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    page = _read_beside("plot_page.html")
    for mark, text in (
        ("title", html.escape(printable(title))),
        ("code", _read_beside("plot_page.js")),
        ("data", inline),
    ):
        page = page.replace(f"{{{{{mark}}}}}", text)
    return page


def page_data(runs: Sequence[Run], panels: Sequence[Panel], axis: AxisName, points: int | None) -> dict[str, Any]:
    """Return the page's data, with long curves thinned to means of neighbouring points."""
    longest = max(runs, key=lambda run: len(run.axis("step")))
    shrink = -(-len(longest.axis("step")) // MOST_POINTS)
    known_axes = [name for name in AXES if any(np.isfinite(run.axis(name)).any() for run in runs)]
    return {
        "axis": axis,
        "axes": known_axes,
        "smooth": max(1, window_of(longest, points) // shrink),
        "thinned": shrink,
        "colours": len(COLOURS),
        "panels": [
            {
                "title": panel.title,
                "unit": panel.unit,
                "isSchedule": panel.is_schedule,
                "isLogarithmic": panel.is_logarithmic,
            }
            for panel in panels
        ],
        "runs": [
            {
                "name": run.name,
                "axes": {name: _numbers(run.axis(name), shrink, _AXIS_DIGITS) for name in known_axes},
                "values": [_panel_numbers(panel.values(run), shrink) for panel in panels],
            }
            for run in runs
        ],
    }


def _read_beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _panel_numbers(values: Values | None, shrink: int) -> list[float | None] | None:
    return None if values is None else _numbers(values, shrink, _DIGITS)


def _numbers(values: Values, shrink: int, digits: int) -> list[float | None]:
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in thin(values, shrink).tolist()]
