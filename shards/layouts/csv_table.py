"""A table with a header and one clip per row: the layout for any dataset without a layout of its own."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from trichord.core.errors import UserError
from trichord.core.reading import parse_json
from trichord.shards.layouts.listing import Item, Layout, Listing, key_from, read_lines, read_rows, relative_name
from trichord.shards.record import Annotation, Interval

_KNOWN = frozenset({"path", "caption", "captions", "labels", "intervals", "group", "split", "start", "end"})


@dataclass(frozen=True)
class _Row:
    """A row with its number, so that errors can refer to it."""

    where: str
    cells: Mapping[str, str]

    def text(self, column: str) -> str:
        return self.cells.get(column, "").strip()

    def seconds(self, column: str) -> float | None:
        if not self.text(column):
            return None
        try:
            value = float(self.text(column))
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < 0:
            raise UserError(f"{self.where}: {column} is {self.text(column)!r}, expected seconds such as 12.5")
        return value

    def json_list(self, column: str) -> list[Any]:
        if not self.text(column):
            return []
        found = _parsed(self.text(column))
        if not isinstance(found, list):
            raise UserError(f"{self.where}: {column} is {self.text(column)[:60]!r}, expected a JSON list")
        return found


class CsvLayout(Layout):
    """Layout of a csv table; labels are class names, numbered by `classes.txt` beside the table or else by name."""

    name: ClassVar[str] = "csv"
    summary: ClassVar[str] = "a table with a header: path, caption(s), labels, intervals, group, split, start, end"
    expects: ClassVar[str] = """\
  ROOT/clips.csv (or one other .csv, or --root TABLE.csv) with a header; columns:
    path (required, relative to the table), caption or captions (JSON list), labels (names separated by ';'),
    intervals (JSON list of [name, start_s, end_s]), group, split, start, end (seconds); other columns are kept
  ROOT/classes.txt (optional): one class name per line"""
    table: str | None = None

    def splits(self, root: Path) -> tuple[str, ...]:
        """Return the values of the column `split` in order of appearance; rows without a value belong to `all`."""
        return tuple(dict.fromkeys(row.text("split") or "all" for row in self._rows(root)))

    def list_split(self, root: Path, split: str) -> Listing:
        """List the rows of a split."""
        rows = self._rows(root)
        folder = self._table(root).parent
        classes = _class_names(folder, rows)
        numbers = {name: number for number, name in enumerate(classes)}
        items: list[Item] = []
        missing: list[str] = []
        for row in rows:
            if (row.text("split") or "all") != split:
                continue
            path = folder / row.text("path")
            if not path.is_file():
                missing.append(row.text("path"))
                continue
            key = key_from(relative_name(path.with_suffix(""), folder).replace("/", "__"))
            items.append(Item(key, path, _annotation(row, numbers)))
        return Listing(classes, items, tuple(missing))

    def _table(self, root: Path) -> Path:
        if root.is_file():
            return root
        candidates = [self.table] if self.table else ["clips.csv"]
        tables = sorted(root.glob("*.csv"))
        if not self.table and not (root / "clips.csv").exists() and len(tables) == 1:
            return tables[0]
        return self.find(root, "table", candidates)

    def _rows(self, root: Path) -> list[_Row]:
        table = self._table(root)
        rows = [_Row(f"{table}, row {number}", cells) for number, cells in enumerate(read_rows(table, ["path"]), 1)]
        for row in rows:
            if not row.text("path"):
                raise UserError(f"{row.where}: the path is empty, expected a video file relative to the table")
        if not rows:
            raise UserError(f"{table} has a header but no rows, expected one clip per row")
        return rows


def _class_names(folder: Path, rows: list[_Row]) -> tuple[str, ...]:
    named: dict[str, str] = {}
    for row in rows:
        for name in [*_label_names(row), *(name for name, _, _ in _intervals(row))]:
            named.setdefault(name, row.where)
    if not (folder / "classes.txt").is_file():
        return tuple(sorted(named))
    classes = tuple(read_lines(folder / "classes.txt"))
    for name, where in named.items():
        if name not in classes:
            near = difflib.get_close_matches(name, classes, n=1)
            hint = f". Did you mean {near[0]!r}?" if near else ""
            raise UserError(f"{where}: class {name!r} is not in {folder / 'classes.txt'}{hint}")
    return classes


def _label_names(row: _Row) -> list[str]:
    return [name.strip() for name in row.text("labels").split(";") if name.strip()]


def _intervals(row: _Row) -> list[tuple[str, float, float]]:
    found: list[tuple[str, float, float]] = []
    for entry in row.json_list("intervals"):
        match entry:
            case [str(name), (int() | float()) as start, (int() | float()) as end] if 0 <= start <= end < math.inf:
                found.append((name, float(start), float(end)))
            case _:
                raise UserError(f"{row.where}: interval {entry!r}, expected [class name, start_s, end_s]")
    return found


def _annotation(row: _Row, numbers: Mapping[str, int]) -> Annotation:
    intervals = _intervals(row)
    labels = {numbers[name] for name in [*_label_names(row), *(name for name, _, _ in intervals)]}
    captions = [row.text("caption"), *row.json_list("captions")]
    if not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"{row.where}: captions is {row.text('captions')[:60]!r}, expected a JSON list of strings")
    start, end = row.seconds("start"), row.seconds("end")
    if end is not None and end <= (start or 0.0):
        raise UserError(f"{row.where}: the clip ends at {end:g} s but starts at {start or 0:g} s")
    return Annotation(
        captions=tuple(dict.fromkeys(caption for caption in captions if caption)),
        labels=tuple(sorted(labels)),
        intervals=tuple(Interval(label=numbers[name], start=begin, end=stop) for name, begin, stop in intervals),
        source=row.text("path"),
        start=start,
        end=end,
        group=row.text("group") or None,
        split=row.text("split") or None,
        extra={name: _parsed(cell) for name, cell in row.cells.items() if name not in _KNOWN and cell.strip()},
    )


def _parsed(text: str) -> Any:
    """Parse a cell as JSON, or return its text if it is not valid JSON; NaN and Infinity are not valid."""
    try:
        return parse_json(text)
    except ValueError:
        return text
