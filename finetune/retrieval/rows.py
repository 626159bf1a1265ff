"""Rows of a segment, with key, shard, caption, label and time span, and folders of embeddings; imports no torch.

Rows are found by number, by key and by text. Keys are found through their sorted hashes, so that neither opening nor
searching reads all of them. A folder of embeddings holds what its parts have in common, and one part for each shard.
Legend: N rows, n some of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from trichord.core.command import command_line, unknown_name
from trichord.core.errors import UserError
from trichord.core.reading import mistake, read_bytes, reason
from trichord.finetune.retrieval.spec import Embedding
from trichord.finetune.retrieval.table import ENDS, Table, TableColumn, TextColumn, TornTable, whole, write_table

Ints = NDArray[np.int64]
_SPANS, _HASHES, _HASHED = ("start_s", "end_s"), "hash", "hash.row"
_AT_ONCE = 1 << 16
WHERE = ("key", "shard", "root", "caption", "label")


def read_filter(given: list[str]) -> dict[str, str]:
    """Parse the NAME=TEXT pairs of --where; the text is used verbatim."""
    found = {}
    for pair in given:
        name, equals, text = pair.partition("=")
        if not equals or not name or not text:
            raise UserError(f"--where: found {pair!r}, expected NAME=TEXT, such as label=jumping")
        found[name] = text
    return found


class IndexRow(NamedTuple):
    """The clip that a vector represents."""

    key: str
    shard: str
    root: str
    caption: str
    label: str  # class names, one on each line
    start_s: float
    end_s: float


class IndexRows:
    """Rows of a table, found by number, key or text."""

    def __init__(self, table: Table, count: int) -> None:
        table.check_rows([*(name + ENDS for name in TEXT_COLUMNS), *_SPANS, _HASHES, _HASHED], count)
        for name, kind in {**dict.fromkeys(_SPANS, "f"), _HASHES: "u", _HASHED: "i"}.items():
            table.numbers(name, kind, 1)
        self._table, self._count = table, count
        self._texts = {name: table.texts(name) for name in TEXT_COLUMNS}

    def __len__(self) -> int:
        return self._count

    def row(self, number: int) -> IndexRow:
        """Return a row by its number."""
        fields = {name: texts[number] for name, texts in self._texts.items()}
        start_s, end_s = (float(self._table.columns[name][number]) for name in _SPANS)
        return IndexRow(**fields, start_s=start_s, end_s=end_s)

    def of_key(self, key: str) -> list[int]:
        """Return the rows of a key: one, or one for each window of its video; none for an unknown key."""
        hashes_N, wanted = self._table.columns[_HASHES], np.uint64(key_hash(key))
        first, last = (int(np.searchsorted(hashes_N, wanted, side=side)) for side in ("left", "right"))
        rows = sorted(int(row) for row in self._table.columns[_HASHED][first:last])
        if rows and not 0 <= rows[0] <= rows[-1] < self._count:
            raise TornTable(f"{self._table.path} lists rows {rows[0]} to {rows[-1]}, and has {self._count}")
        return [row for row in rows if self._texts["key"][row] == key]

    def matching(self, where: Mapping[str, str]) -> NDArray[np.bool_]:
        """Return which rows have these texts; in a column with several lines, such as labels, one line must match."""
        found_N = np.ones(len(self), dtype=bool)
        for name, text in where.items():
            if name not in WHERE:
                raise UserError(unknown_name("--where: no column", name, WHERE))
            found_N &= self._texts[name].rows_with_line(text)
        return found_N

    def check(self) -> None:
        """Verify the table's checksum."""
        self._table.check()


class Source(NamedTuple):
    """Rows to write into a segment: rows `keep_n` of a table and of vectors in the same order."""

    table: Table
    vectors_ND: NDArray[Any]
    keep_n: Ints

    def blocks(self, at_once: int) -> Iterator[NDArray[Any]]:
        """Yield the kept vectors in blocks."""
        for first in range(0, len(self.keep_n), at_once):
            yield np.asarray(self.vectors_ND[self.keep_n[first : first + at_once]])

    def held_keys(self) -> Iterator[str]:
        """Return the kept keys."""
        texts = self.table.texts("key")
        return (texts[int(row)] for row in self.keep_n)


def key_hash(key: str) -> int:
    """Return a 64-bit hash of a key."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def write_rows(path: Path, sources: Sequence[Source]) -> None:
    """Write the kept rows of all sources, in their order."""
    count = sum(len(source.keep_n) for source in sources)
    hashes_N = np.fromiter((key_hash(key) for source in sources for key in source.held_keys()), np.uint64, count)
    starts_N = np.concatenate([source.table.columns["start_s"][source.keep_n] for source in sources])
    order_N = np.lexsort((starts_N, hashes_N))
    _refuse_twice(sources, hashes_N, starts_N, order_N)
    columns: dict[str, TableColumn] = {
        _HASHES: whole(hashes_N[order_N]),
        _HASHED: whole(order_N.astype(np.int64)),
        "start_s": whole(starts_N),
        "end_s": whole(np.concatenate([source.table.columns["end_s"][source.keep_n] for source in sources])),
    }
    for name in TEXT_COLUMNS:
        texts = [(source.table.texts(name), source.keep_n) for source in sources]
        lengths_N = np.concatenate([each.lengths()[keep_n] for each, keep_n in texts])
        columns[name + ENDS] = whole(np.cumsum(lengths_N))
        columns[name] = TableColumn(np.uint8, (int(lengths_N.sum()),), _bytes(texts))
    write_table(path, columns, {"rows": count})


def _bytes(texts: Sequence[tuple[TextColumn, Ints]]) -> Iterator[NDArray[Any]]:
    for column, keep_n in texts:
        for first in range(0, len(keep_n), _AT_ONCE):
            yield column.gathered(keep_n[first : first + _AT_ONCE])


def _refuse_twice(
    sources: Sequence[Source], hashes_N: NDArray[np.uint64], starts_N: NDArray[Any], order_N: Ints
) -> None:
    """Raise UserError if a key occurs twice with the same start, because the two rows could not be distinguished."""
    same_N = (np.diff(hashes_N[order_N]) == 0) & (np.diff(starts_N[order_N]) == 0)
    ends = np.cumsum([len(source.keep_n) for source in sources])
    for place in np.flatnonzero(same_N).tolist():
        origins = []
        for row in order_N[place : place + 2].tolist():
            number = int(np.searchsorted(ends, row, side="right"))
            source = sources[number]
            within = int(source.keep_n[row - (int(ends[number]) - len(source.keep_n))])
            origins.append([source.table.texts(name)[within] for name in ("key", "root", "shard")])
        if origins[0][0] == origins[1][0]:
            (key, root, shard), (_, other_root, other) = origins
            raise UserError(
                f"{key} occurs twice, in {root}/{shard} and in {other_root}/{other}; expected unique keys. "
                "Next: index sets that share keys separately, or remove the key first"
            )


FILE_NAME = "embedding.json"
TEXT_COLUMNS = ("key", "shard", "root", "caption", "label")


def part_path(folder: Path, place: int) -> Path:
    """Return the path of the part of the shard with this number."""
    return folder / f"{place:05d}.safetensors"


def plan_of(embedding: Embedding) -> str:
    """Return a digest of everything that determines a part, without locations."""
    text = embedding.model_dump_json(exclude={"run", "root", "step"})
    return hashlib.sha256(text.encode()).hexdigest()


def finished(folder: Path, embedding: Embedding, place: int) -> Table | None:
    """Open the part of a shard; None unless it exists, is complete and belongs to this embedding."""
    try:
        table = Table.open(part_path(folder, place))
    except (FileNotFoundError, TornTable):
        return None
    is_ours = table.about.get("plan") == plan_of(embedding) and table.about.get("shard") == embedding.shards[place]
    return table if is_ours else None


def read_embedding(folder: Path) -> Embedding:
    """Read the settings that the parts of a folder have in common."""
    path = folder / FILE_NAME
    try:
        return Embedding.model_validate_json(read_bytes(path))
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} holds no embeddings: there is no {FILE_NAME}. Next: "
            f"{command_line('embed', 'RUN', 'SHARDS', '--out', folder)}"
        ) from error
    except ValidationError as error:
        raise UserError(f"{path} cannot be read: {mistake(error)}. Next: embed into another folder") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}. Next: embed into another folder") from error
