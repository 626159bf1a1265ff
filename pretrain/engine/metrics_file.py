"""The file metrics.jsonl in a run's folder: one JSON object a log step, readable while it grows, however it ends."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trichord.core.files import whole_file

FILE_NAME = "metrics.jsonl"

Row = dict[str, Any]


def read_rows(path: Path) -> Iterator[Row]:
    """Give the rows in order; a line that a kill tore in two is passed over."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            row = _parse(line)
            if row is not None:
                yield row


def encode(row: Mapping[str, object]) -> str:
    """Write a row as one line; a figure that is not finite becomes null, and its name stays in `not_finite`."""
    broken = [name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
    plain = {name: None if name in broken else value for name, value in row.items()}
    if broken:
        plain["not_finite"] = broken
    return json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n"


def keep_before(path: Path, start_step: int) -> Row:
    """Drop the rows from `start_step` on and whatever is torn, in one move; give the last row that stays, or nothing.

    Those steps were done after the last checkpoint by a run that was killed, and will be done again.
    """
    last: Row = {}
    if not path.exists():
        return last
    with whole_file(path) as file:
        for row in read_rows(path):
            if row["step"] < start_step:
                file.write(encode(row).encode())
                last = row
    return last


def _parse(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
