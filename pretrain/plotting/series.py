"""The data to plot: the logged figures of runs as curves, which of them get a panel, and their units."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trichord.core.command import command_line, unknown_name
from trichord.core.console import show_figures
from trichord.core.errors import UserError
from trichord.core.reading import skipping
from trichord.core.registry import load
from trichord.core.run_folder import RunFolder
from trichord.pretrain.engine.trackers import FILE_NAME, read_rows

Values = NDArray[np.float64]
AxisName = Literal["step", "samples", "hours"]

AXES: tuple[AxisName, ...] = ("step", "samples", "hours")
_AXIS_FIGURES = {"step": "step", "samples": "samples", "hours": "run_s"}
_SHORT_NAMES = {"lr": "learning_rate"}
# Panels are in this order; figures that an objective or a schedule adds come between the two.
_BEFORE = ("loss", "loss/*", "health/*", "embedding_*", "gradient_norm", "learning_rate", "weight_decay")
_AFTER = ("clips_per_s", "data_wait_share", "mfu", "memory_gib", "bad_share", "silent_share")
_ASKED_FOR_ONLY = ("step", "steps", "samples", "*_s", "clips_per_s_device", "embedding_rank_share/*")
_SCHEDULES = ("learning_rate", "weight_decay", "*momentum*", "*temperature*")  # exact values, so not smoothed
_UNITS = {"_share": ("%", 100.0), "_gib": ("GiB", 1.0), "_s": ("s", 1.0)}
_TITLES = {
    "mfu": ("MFU", "%", 100.0),
    "clips_per_s": ("speed", "clips/s", 1.0),
    "clips_per_s_device": ("speed of a device", "clips/s", 1.0),
    "bad_share": ("bad samples", "%", 100.0),
    "silent_share": ("silent samples", "%", 100.0),
}
# Okabe and Ito's colours, which colour-blind people can distinguish, without yellow, which is too pale on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#595959")
# The modules are imported when they draw: matplotlib takes long to load, and a page does without.
_WRITERS = {
    ".html": "trichord.pretrain.plotting.page:draw_page",
    ".png": "trichord.pretrain.plotting.picture:draw_picture",
    ".svg": "trichord.pretrain.plotting.picture:draw_picture",
}
_POINTS_PER_WINDOW = 30  # by default a curve is smoothed over 1/30 of its length


@dataclass(frozen=True, eq=False)
class Run:
    """The figures of a run, one value for each log line, NaN where a line lacks the figure."""

    name: str
    figures: dict[str, Values]

    def axis(self, name: AxisName) -> Values:
        """Return the x coordinates of the points."""
        values = self.figures.get(_AXIS_FIGURES[name], np.full(len(self.figures["step"]), np.nan))
        return values / 3600 if name == "hours" else values

    def last(self, figure: str) -> float | None:
        """Return the last logged value."""
        values = self.figures.get(figure, np.empty(0))
        known = values[np.isfinite(values)]
        return float(known[-1]) if len(known) else None


class Panel(NamedTuple):
    """One figure to draw: its title, its unit, and the factor that converts it to that unit."""

    figure: str
    title: str
    unit: str
    factor: float
    is_schedule: bool
    is_logarithmic: bool

    def values(self, run: Run) -> Values | None:
        """Return a run's values in the panel's unit, None if it logged none."""
        found = run.figures.get(self.figure)
        return None if found is None else found * self.factor


Draw = Callable[[Path, Sequence[Run], Sequence[Panel], AxisName, int | None], None]


def run_plot(arguments: Namespace) -> int:
    """Draw the curves of runs to a file, and print the last figures of each."""
    runs, refused = load_runs(arguments.runs)
    wanted = [name.strip() for name in arguments.figures.split(",") if name.strip()] if arguments.figures else None
    panels = choose_panels(runs, wanted, arguments.x)
    out = arguments.out
    if out is None:
        first = arguments.runs[0]
        out = (first if first.is_dir() else first.parent) / "curves.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    draw: Draw = load(_WRITERS[out.suffix.lower()])
    draw(out, runs, panels, arguments.x, arguments.smooth)
    rows = [
        {
            "run": run.name,
            "log_lines": len(run.axis("step")),
            "last_step": int(run.axis("step")[-1]),
            "hours": round(float(run.axis("hours")[-1]), 2),
            "loss": run.last("loss"),
        }
        for run in runs
    ]
    show_figures(f"{len(panels)} figure{'' if len(panels) == 1 else 's'} drawn: {out}", rows, arguments.json)
    return 1 if refused else 0


def load_runs(paths: Sequence[Path]) -> tuple[list[Run], int]:
    """Read runs, given as folders or as their metrics files, with the shortest names that are distinct.

    Return also the number of runs that cannot be read; they are left out with a warning.
    """
    found, refused = skipping(paths, lambda path: (_metrics_of(path), _columns(_metrics_of(path))))
    columns = dict(found)
    names = _short_names([file.parent for file in columns])
    return [Run(name, each) for name, each in zip(names, columns.values(), strict=True)], refused


def choose_panels(runs: Sequence[Run], wanted: Sequence[str] | None, axis: AxisName) -> list[Panel]:
    """Return the panels requested by names or patterns such as loss/*, or by default those of figures that vary."""
    if not any(np.isfinite(run.axis(axis)).any() for run in runs):
        raise UserError(f"no run logged {_AXIS_FIGURES[axis]}, which --x {axis} needs. Next: --x step")
    known = list(dict.fromkeys(name for run in runs for name in run.figures))
    if wanted is None:
        varying = [name for name in known if _is_informative(name, runs)]
        if not varying:
            raise UserError(f"no figure varies yet. Next: --figures, with some of {', '.join(_ordered(known))}")
        return [_panel(name, runs) for name in _ordered(varying)]
    found: list[str] = []
    for name in (_SHORT_NAMES.get(each, each) for each in wanted):
        matches = [each for each in _ordered(known) if fnmatchcase(each, name)]
        if not matches:
            raise UserError(unknown_name("--figures: no run logged", name, _ordered(known)))
        found += matches
    return [_panel(name, runs) for name in dict.fromkeys(found)]


def window_of(run: Run, points: int | None) -> int:
    """Return the number of points over which a run's curves are smoothed."""
    return points or max(1, len(run.figures["step"]) // _POINTS_PER_WINDOW)


def smooth(values: Values, window: int) -> Values:
    """Average over a window centred on each point, shorter at the ends; there is no lag, and gaps stay gaps."""
    is_known = np.isfinite(values)
    reach = min(window, len(values)) // 2
    sums = np.concatenate([[0.0], np.cumsum(np.where(is_known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(is_known)])
    middle = np.arange(len(values))
    first, behind = np.maximum(middle - reach, 0), np.minimum(middle + reach + 1, len(values))
    means = (sums[behind] - sums[first]) / np.maximum(counts[behind] - counts[first], 1)
    return np.where(is_known, means, np.nan)


def thin(values: Values, size: int) -> Values:
    """Average each `size` neighbouring points; the last group may be smaller."""
    groups = np.full(-(-len(values) // size) * size, np.nan)
    groups[: len(values)] = values
    grouped = groups.reshape(-1, size)
    counts = np.isfinite(grouped).sum(axis=1)
    means: Values = np.where(counts, np.nansum(grouped, axis=1) / np.maximum(counts, 1), np.nan)
    return means


def _metrics_of(path: Path) -> Path:
    file = RunFolder(path).metrics if path.is_dir() else path
    if not path.exists():
        raise UserError(f"there is no run at {path}. Next: name the run's folder, the one given as --run to pretrain")
    if not file.exists():
        within = sorted(each.parent.name for each in path.glob(f"*/{FILE_NAME}"))
        hint = f"It contains runs: {', '.join(within)}. Next: {command_line('plot', path)}/*" if within else ""
        raise UserError(f"{path} has no {FILE_NAME}, which a run writes with its first log line. {hint}".rstrip())
    return file


def _columns(path: Path) -> dict[str, Values]:
    rows = list(read_rows(path))
    if not rows:
        raise UserError(f"{path} has no complete line yet. Next: wait for the run's first log line")
    names = dict.fromkeys(name for row in rows for name, value in row.items() if _is_number(value))
    return {
        name: np.array([row[name] if _is_number(row.get(name)) else np.nan for row in rows], np.float64)
        for name in names
    }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short_names(folders: Sequence[Path]) -> list[str]:
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            break
    return names


def _ordered(names: Iterable[str]) -> list[str]:
    def place(name: str) -> int:
        for index, pattern in enumerate(_BEFORE):
            if fnmatchcase(name, pattern):
                return index
        return len(_BEFORE) + (_AFTER.index(name) + 1 if name in _AFTER else 0)

    return sorted(names, key=place)


def _is_informative(name: str, runs: Sequence[Run]) -> bool:
    """Return whether a figure is drawn by default: it varies, and is not auxiliary to other figures."""
    if name == "loss":
        return True
    if name not in _AFTER and any(fnmatchcase(name, pattern) for pattern in _ASKED_FOR_ONLY):
        return False
    values = np.concatenate([run.figures[name] for run in runs if name in run.figures])
    return len(np.unique(values[np.isfinite(values)])) > 1


def _panel(figure: str, runs: Sequence[Run]) -> Panel:
    title, unit, factor = _TITLES.get(figure) or _describe(figure)
    is_schedule = any(fnmatchcase(figure, pattern) for pattern in _SCHEDULES)
    values = np.concatenate([run.figures[figure] for run in runs if figure in run.figures])
    return Panel(figure, title, unit, factor, is_schedule, is_schedule and _spans_decades(values))


def _describe(figure: str) -> tuple[str, str, float]:
    stem, unit, factor = figure.removeprefix("health/"), "", 1.0
    for ending, (its_unit, its_factor) in _UNITS.items():
        if stem.endswith(ending):
            stem, unit, factor = stem.removesuffix(ending), its_unit, its_factor
            break
    return stem.replace("_", " ").replace("/", ": "), unit, factor


def _spans_decades(values: Values) -> bool:
    """Return whether most of a curve would lie at the bottom of a linear scale."""
    known = values[np.isfinite(values)]
    return bool(len(known) and known.min() > 0 and np.median(known) < known.max() / 30)
