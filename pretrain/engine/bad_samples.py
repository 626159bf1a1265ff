"""The samples that a run cannot use, on all ranks: counted by cause, and listed in the run folder's bad.jsonl."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from trichord.core.run_folder import RunFolder
from trichord.pretrain.collectives import gather_texts, rank
from trichord.pretrain.engine.trackers import encode, keep_before, read_rows
from trichord.shards.reading.batch import BadSample, Batch

_LISTED = 10_000  # samples of a run; their counts go on
_LISTED_BY_A_RANK = 100  # at a time
_CHARACTERS = 300


class BadSamples:
    """The bad samples since this process started; the list also has those of earlier starts.

    A sample is listed once, at the step that first met it.
    """

    def __init__(self, run: Path, start_step: int) -> None:
        self.counts = Counter[str]()  # of all ranks, by cause
        self._path = RunFolder(run).bad_samples
        self._own, self._rows = Counter[str](), list[dict[str, Any]]()
        self._listed = set[tuple[str, str, str]]()
        if rank() == 0 and self._path.exists():
            keep_before(self._path, start_step)
            self._listed = {_name(row) for row in read_rows(self._path)}

    def add(self, batch: Batch, step: int) -> None:
        """Add those of this rank's batch."""
        self._own.update(each.cause.value for each in batch.bad)
        room = _LISTED_BY_A_RANK - len(self._rows)
        self._rows += [{"step": step, **_about(each)} for each in batch.bad[:room]]

    def gather(self) -> None:
        """Add up the counts of all ranks, and list what is new; a collective. Raise OSError if the disk is full."""
        everyone = [json.loads(text) for text in gather_texts([json.dumps([self._own, self._rows])])]
        self._own, self._rows = Counter(), []
        for counts, _ in everyone:
            self.counts.update(counts)
        if rank() == 0:
            self._list([row for _, rows in everyone for row in rows])

    def _list(self, rows: list[dict[str, Any]]) -> None:
        lines = []
        for row in rows:
            if len(self._listed) < _LISTED and _name(row) not in self._listed:
                self._listed.add(_name(row))
                lines.append(encode(row))
        if lines:
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(lines)


def _about(bad: BadSample) -> dict[str, str]:
    found = {"shard": bad.shard, "key": bad.key, "cause": bad.cause.value, "detail": bad.detail}
    return {name: text.encode(errors="backslashreplace").decode()[:_CHARACTERS] for name, text in found.items()}


def _name(row: dict[str, Any]) -> tuple[str, str, str]:
    return str(row.get("shard")), str(row.get("key")), str(row.get("cause"))
