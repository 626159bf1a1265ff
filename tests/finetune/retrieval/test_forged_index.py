"""An index of other people, damaged or forged with the right checksums, is refused: FAISS reads nothing beyond it."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from tests.finetune.retrieval.stage import clustered, write_embedding
from trichord.core.errors import UserError
from trichord.finetune.retrieval.building import Options
from trichord.finetune.retrieval.changing import build, merge
from trichord.finetune.retrieval.index import CATALOGUE, Index
from trichord.finetune.retrieval.rows import part_path
from trichord.finetune.retrieval.spec import Kind
from trichord.finetune.retrieval.table import ENDS, Table, TableColumn, TornTable, text_columns, whole, write_table

COUNT, DIM = 400, 16
Change = Callable[[bytes], bytes]


def index_of(folder: Path, kind: Kind) -> Path:
    write_embedding(folder / "vectors", [[f"k{number}" for number in range(COUNT)]])
    build([folder / "vectors"], folder / "index", "video", Options(1 << 28, 0.9, kind))
    return folder / "index"


def with_settings(index: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tree = json.loads((index / CATALOGUE).read_text())
    change(tree)
    (index / CATALOGUE).write_text(json.dumps(tree))


def forge(index: Path, name: str, change: Change) -> None:
    """Change a file of the first segment, and its size in the catalogue."""
    path = index / "segment-00001" / name
    path.write_bytes(change(path.read_bytes()))
    with_settings(index, lambda tree: tree["segments"][0]["files"][name].update(bytes=path.stat().st_size))


def search(index: Path) -> None:
    Index.open(index).nearest(clustered(3, DIM, 1), 10)


def number_at(place: int, value: int) -> Change:
    return lambda data: data[:place] + struct.pack("<q", value) + data[place + 8 :]


def other_rows(data: bytes) -> bytes:
    """Let the first row of each list be one beyond all."""
    index: Any = faiss.deserialize_index(np.frombuffer(data, np.uint8))
    for number in range(index.nlist):
        if size := index.invlists.list_size(number):
            rows: Any = faiss.rev_swig_ptr(index.invlists.get_ids(number), size)  # type: ignore[attr-defined]
            data = data.replace(rows.tobytes(), struct.pack("<q", 1 << 40) + rows.tobytes()[8:])
    return data


def other_kind(data: bytes) -> bytes:
    index: Any = faiss.IndexFlatL2(DIM)
    index.add(clustered(COUNT, DIM, 0))
    found: bytes = faiss.serialize_index(index).tobytes()
    return found


def entry(vector: int) -> Change:
    """Let a graph begin at another vector."""
    return lambda data: data[:-24] + struct.pack("<i", vector) + data[-20:]


def link_down(data: bytes) -> bytes:
    """Let the first link on level 1 lead to a vector that is only on level 0; each has 64 links there."""
    levels_N = np.frombuffer(data, "<i4", COUNT, 137)
    offsets_N = np.frombuffer(data, "<u8", COUNT, 145 + 4 * COUNT)
    above, below = int(np.flatnonzero(levels_N > 1)[0]), int(np.flatnonzero(levels_N == 1)[0])
    place = 145 + 4 * COUNT + 8 * (COUNT + 1) + 8 + 4 * (int(offsets_N[above]) + 64)
    return data[:place] + struct.pack("<i", below) + data[place + 4 :]


# The first number in a file of IVF after 53 bytes of its own is its index of centroids; of HNSW a table of 8 numbers.
SEARCHES: Mapping[str, tuple[Kind, Change, str]] = {
    "more lists than memory": ("ivf_flat", number_at(37, 1 << 38), "search.faiss is damaged"),
    "a table of terabytes": ("hnsw", number_at(37, 1 << 36), "search.faiss is damaged"),
    "a table larger than the file": ("hnsw", number_at(37, 1 << 28), "search.faiss is damaged"),
    # FAISS ends the process at the following, or may do so.
    "a number cut by the end": ("hnsw", lambda data: data[:30], "search.faiss is damaged"),
    "a graph that begins nowhere": ("hnsw", entry(-1), "begins at no vector of the top level"),
    "a graph that begins below its top": ("hnsw", entry(COUNT - 1), "begins at no vector of the top level"),
    "a link to a vector below": ("hnsw", link_down, "a link on level 1 leads to a vector without that level"),
    "links without places": ("hnsw", number_at(37 + 8 + 6 * 8 + 8, 5), "its links have no places"),
    "more than its tables": ("hnsw", lambda data: data + b"x", "it is longer than its tables"),
    "rows beyond all, rescored": ("ivf_sq8", other_rows, "the search index is damaged"),
    "rows beyond all": ("ivf_flat", other_rows, "the search index is damaged"),
    "another kind": (
        "ivf_pq",
        other_kind,
        "is an IndexFlatL2 of 16 features, expected an IndexIVFPQ",
    ),
    "nothing": ("hnsw", lambda _: b"", "search.faiss is damaged"),
    "an index within an index": ("ivf_flat", lambda data: data[:53] * 10_000 + data[53:], "search.faiss is damaged"),
}


@pytest.mark.parametrize(("kind", "change", "reason"), SEARCHES.values(), ids=list(SEARCHES))
def test_forged_search_file_is_refused(kind: Kind, change: Change, reason: str, tmp_path: Path) -> None:
    index = index_of(tmp_path, kind)
    search(index)
    forge(index, "search.faiss", change)
    with pytest.raises(UserError, match=reason):
        search(index)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("dim",), 1 << 40),
        (("segments", 0, "count"), 1 << 60),
        (("segments", 0, "settings", "candidates"), 1 << 60),
        (("segments", 0, "settings", "probes"), 1 << 60),
        (("segments", 0, "settings", "factor"), 1e30),
        (("segments", 0, "files"), {"../../index.json": {"bytes": 1, "sha256": ""}}),
        (("segments", 0, "files"), {"x" * 100_000 + "/": {"bytes": 1, "sha256": ""}}),
    ],
)
def test_impossible_settings_are_refused_in_a_short_message(
    place: tuple[Any, ...], value: object, tmp_path: Path
) -> None:
    index = index_of(tmp_path, "flat")

    def change(tree: Any) -> None:
        for key in place[:-1]:
            tree = tree[key]
        tree[place[-1]] = value

    with_settings(index, change)
    with pytest.raises(UserError, match=r"index\.json cannot be read") as caught:
        Index.open(index)
    assert len(str(caught.value)) < 1000


def rewrite(path: Path, **changes: TableColumn | None) -> None:
    """Write a table again with other columns, and the right checksum."""
    table = Table.open(path)
    columns = {name: whole(np.array(column)) for name, column in table.columns.items()}
    left = {name.replace("_dot_", "."): column for name, column in changes.items()}
    write_table(path, {name: each for name, each in {**columns, **left}.items() if each is not None}, table.about)


WRONG_COLUMNS: Mapping[str, dict[str, TableColumn | None]] = {
    "text that begins after its end": {
        f"caption{ENDS}".replace(".", "_dot_"): whole(np.array([5, 1, 9], np.int64)),
        "caption": whole(np.zeros(9, np.uint8)),
    },
    "no vectors": {"video": None},
    "vectors of another size": {"video": whole(np.zeros((3, 5), np.float16))},
    "vectors of whole numbers": {"video": whole(np.zeros((3, DIM), np.int64))},
    "vectors of no dimension": {"video": whole(np.zeros(3, np.float16))},
}


@pytest.mark.parametrize("columns", WRONG_COLUMNS.values(), ids=list(WRONG_COLUMNS))
def test_table_with_other_columns_is_refused(columns: dict[str, TableColumn | None], tmp_path: Path) -> None:
    write_embedding(tmp_path / "vectors", [["a", "b", "c"]])
    rewrite(part_path(tmp_path / "vectors", 0), **columns)
    with pytest.raises(UserError):
        build([tmp_path / "vectors"], tmp_path / "index", "video", Options(1 << 28, 0.9))
    assert not (tmp_path / "index" / CATALOGUE).exists()


def test_text_that_is_not_utf8_is_shown_with_replacements(tmp_path: Path) -> None:
    write_embedding(tmp_path / "vectors", [["a", "b"]])
    path = part_path(tmp_path / "vectors", 0)
    ends_N = np.array([1, 2], np.int64)
    rewrite(path, label=whole(np.array([0xFF, 0x61], np.uint8)), label_dot_ends=whole(ends_N))
    build([tmp_path / "vectors"], tmp_path / "index", "video", Options(1 << 28, 0.9))
    index = Index.open(tmp_path / "index")
    assert {hit.label for hit in index.nearest(clustered(1, DIM, 0), 2)[0]} == {"\ufffd", "a"}
    merge(tmp_path / "index", Options(1 << 28, 0.9))


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b'{"__metadata__": {"about": "' + b"[" * 5000 + b'", "sha256": ""}, "v": {"data_offsets": [0, 0]}}',
        b'{"__metadata__": {"about": "[1]", "sha256": ""}, "v": {"data_offsets": [0, 0]}}',
        b'{"__metadata__": {"about": "{}", "sha256": ""}, "v": {"data_offsets": [0]}}',
        b'{"__metadata__": {"about": "{}", "sha256": ""}, "v": {"data_offsets": []}}',
        b'{"__metadata__": {"about": "{}", "sha256": ""}}',
        b'{"__metadata__": {"about": "{}", "sha256": ""}, "v": '
        b'{"dtype": "F32", "shape": [4611686018427387904, 4611686018427387904], "data_offsets": [0, 0]}}',
        b'{"__metadata__": {"about": "{}", "sha256": ""}, "v": '
        b'{"dtype": "F32", "shape": [1e400], "data_offsets": [0, 0]}}',
    ],
    ids=range(8),
)
def test_forged_header_of_a_table_is_refused(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "table.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(TornTable):
        Table.open(path)


def test_texts_of_a_table_are_read_only_within_it(tmp_path: Path) -> None:
    path = tmp_path / "table.safetensors"
    write_table(path, {**text_columns("label", ["a", "b"]), f"label{ENDS}": whole(np.array([9.0, 2.0]))}, {})
    with pytest.raises(TornTable, match=r"column label\.ends: found float64"):
        Table.open(path)
