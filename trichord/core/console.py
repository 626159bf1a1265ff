"""Progress on stderr and results on stdout, as tables or as JSON."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, TypeVar

T = TypeVar("T")

_QUICK_S = 2.0  # shorter work leaves no bar or line
_LINE_EVERY_S = 10.0
_WIDTH_OF_A_PIPE = 200
_UPRIGHT_FROM_COLUMNS = 7


def track(items: Iterable[T], label: str, total: int | None = None) -> Generator[T, None, None]:
    """Yield the items and show progress: a bar on a terminal, otherwise a line every ten seconds."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    return _with_bar(items, label, total) if sys.stderr.isatty() else _with_lines(items, label, total)


@contextlib.contextmanager
def pulse(label: str) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each piece of work, for progress of work that is not a loop over items."""
    ticks = track(itertools.repeat(None), label)
    try:
        yield lambda: next(ticks)
    finally:
        ticks.close()


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which gets an s unless the number is 1: ``1 clip``, ``2,000 clips``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


# What a terminal would obey, or a file of text or XML could not hold: control characters, changes of direction, halves
# of surrogate pairs, and code points that are no characters.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_OF_MARKDOWN = re.compile(r"[\\`*\[\]|<>&]")


def printable(text: str) -> str:
    """Return text of any origin as a terminal may show it; what it would obey is written as an escape sequence."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def plain_markdown(text: str) -> str:
    """Return text of any origin as one line of Markdown that shows it literally."""
    return _OF_MARKDOWN.sub(lambda found: f"\\{found[0]}", printable(" ".join(text.split())))


def show_figures(title: str, rows: Sequence[Mapping[str, object]], as_json: bool) -> None:
    """Print rows of named figures on stdout, as a table or as one line of JSON: {"title": ..., "rows": [...]}."""
    if as_json:
        plain = [{name: _plain(value) for name, value in row.items()} for row in rows]
        line = json.dumps({"title": title, "rows": plain}, ensure_ascii=False)
        print(_UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", line), flush=True)
    elif len(rows) == 1 and len(rows[0]) >= _UPRIGHT_FROM_COLUMNS:
        _print_table(title, [{"figure": name, "value": value} for name, value in rows[0].items()], header=False)
    else:
        _print_table(title, rows, header=True)


def _with_bar(items: Iterable[T], label: str, total: int | None) -> Generator[T, None, None]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        # Worker processes that are forked meanwhile would inherit the replaced streams with their locks.
        redirect_stdout=False,
        redirect_stderr=False,
    )
    start_s = time.monotonic()
    with progress:
        task = progress.add_task(label, total=total)
        for item in items:
            yield item
            progress.advance(task)
        progress.live.transient = time.monotonic() - start_s < _QUICK_S


def _with_lines(items: Iterable[T], label: str, total: int | None) -> Generator[T, None, None]:
    start_s = shown_s = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1
        now_s = time.monotonic()
        if now_s - shown_s >= _LINE_EVERY_S:
            shown_s = now_s
            print(_progress_line(label, done, total, now_s - start_s), file=sys.stderr, flush=True)
    elapsed_s = time.monotonic() - start_s
    if elapsed_s >= _QUICK_S:
        print(f"{label}: {done} done in {_duration(elapsed_s)}", file=sys.stderr, flush=True)


def _progress_line(label: str, done: int, total: int | None, elapsed_s: float) -> str:
    rate = f"{done / elapsed_s:.3g}/s"
    if not total:
        return f"{label}: {done}, {rate}"
    remaining_s = elapsed_s / done * max(total - done, 0)
    return f"{label}: {done} of {total} ({100 * done / total:.0f} %), {rate}, {_duration(remaining_s)} left"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _print_table(title: str, rows: Sequence[Mapping[str, object]], header: bool) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDTH_OF_A_PIPE
    table = Table(title=printable(title), title_justify="left", box=SIMPLE, show_header=header)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for name in columns:
        values = [row.get(name) for row in rows]
        justify: Any = "right" if all(value is None or _is_number(value) for value in values) else "left"
        table.add_column(printable(name), justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in columns))
    console.print(table)


def _is_number(value: object) -> bool:
    return isinstance(_plain(value), int | float) and not isinstance(value, bool)


def _cell(value: object) -> str:
    value = _plain(value)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{printable(str(name))}: {_cell(entry)}" for name, entry in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_cell, value)) or "none"
    return printable(str(value))


def _plain(value: object) -> object:
    """Convert numpy and torch numbers to Python numbers, non-finite values to None, and other objects to text."""
    unwrap = getattr(value, "item", None)
    if callable(unwrap):
        value = unwrap()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
