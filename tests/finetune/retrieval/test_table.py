"""Tables are readable by safetensors, and their texts are found as in a loop."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from trichord.finetune.retrieval.table import Table, TableColumn, TornTable, text_columns, whole, write_table

TEXTS = ["red", "", "a red box", "red\nblue", "blue\nred", "ünder", "reds\nred", "red", "\nred", "b\nredd\nred\n"]


def test_safetensors_reads_tables_that_are_written_in_blocks(tmp_path: Path) -> None:
    rows_ND = np.arange(30, dtype=np.float16).reshape(10, 3)
    columns = {
        "vectors": TableColumn(np.float16, (10, 3), [rows_ND[:4], rows_ND[4:]]),
        "start_s": whole(np.arange(10.0)),
    }
    write_table(tmp_path / "t.safetensors", columns | text_columns("caption", TEXTS), {"rows": 10, "of": "ünder"})
    found = load_file(tmp_path / "t.safetensors")
    assert np.array_equal(found["vectors"], rows_ND) and found["vectors"].dtype == np.float16
    assert found["caption"].tobytes().decode() == "".join(TEXTS)
    with safe_open(tmp_path / "t.safetensors", "numpy") as file:
        assert set(file.metadata()) == {"about", "sha256"}
    table = Table.open(tmp_path / "t.safetensors")
    table.check()
    assert table.about == {"rows": 10, "of": "ünder"} and list(table.texts("caption")) == TEXTS
    assert isinstance(table.columns["vectors"], np.memmap) and np.array_equal(table.columns["vectors"], rows_ND)
    assert all(column.ctypes.data % column.itemsize == 0 for column in table.columns.values())
    save_file({"vectors": rows_ND}, tmp_path / "strange.safetensors")
    with pytest.raises(TornTable, match="is not a trichord table"):
        Table.open(tmp_path / "strange.safetensors")


def test_texts_are_found_by_line_and_gathered(tmp_path: Path) -> None:
    rng = random.Random(0)
    texts = [rng.choice(TEXTS) for _ in range(300)]
    write_table(tmp_path / "t.safetensors", text_columns("label", texts), {})
    column = Table.open(tmp_path / "t.safetensors").texts("label")
    for line in ("red", "blue", "ünder", "a red box", "box", "redd"):
        assert column.rows_with_line(line).tolist() == [line in text.split("\n") for text in texts]
    some = np.array([0, 5, 5, 299, 17])
    assert column.gathered(some).tobytes().decode() == "".join(texts[row] for row in some)
    assert column.lengths().tolist() == [len(text.encode()) for text in texts]


def test_column_of_the_wrong_length_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="column v got 24 bytes, expected 40"):
        write_table(tmp_path / "t.safetensors", {"v": TableColumn(np.float64, (5,), [np.arange(3.0)])}, {})
    assert list(tmp_path.iterdir()) == []


def damaged(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Write a table, and change its header."""
    write_table(path, text_columns("key", ["one", "two", "ü"]) | {"start_s": whole(np.zeros(3))}, {"rows": 3})
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header["key"].update(dtype="F32", shape=[1]),
        lambda header: header["key.ends"].update(dtype="F64"),
        lambda header: header["key.ends"].update(shape=[3, 1]),
        lambda header: header["start_s"].update(shape=[-1]),
        lambda header: header["start_s"].update(shape=[1e300]),
        lambda header: header["start_s"].update(data_offsets=[0, "x"]),
        lambda header: header["start_s"].update(data_offsets=[0]),
        lambda header: header["start_s"].update(data_offsets=[10**200, 10**200]),
        lambda header: header.update(more=5),
        lambda header: header["__metadata__"].update(about="[]"),
        lambda header: header["__metadata__"].update(about="[" * 100_000),
        lambda header: header["__metadata__"].update(about=5),
        lambda header: header.clear(),
    ],
)
def test_header_of_another_form_is_refused(change: Callable[[dict[str, Any]], object], tmp_path: Path) -> None:
    with pytest.raises(TornTable, match=r"t\.safetensors"):
        Table.open(damaged(tmp_path / "t.safetensors", change))


@pytest.mark.parametrize("ends", [[3, 1, 8], [-5, 6, 8], [100, 6, 8]])
def test_texts_with_wrong_ends_are_refused_when_they_are_read(ends: list[int], tmp_path: Path) -> None:
    write_table(
        tmp_path / "t",
        {"key": whole(np.frombuffer("onetwoü".encode(), np.uint8)), "key.ends": whole(np.array(ends))},
        {},
    )
    table = Table.open(tmp_path / "t")
    with pytest.raises(TornTable, match=r"text \d of a table is from"):
        list(table.texts("key"))
    table.texts("key").rows_with_line("two")


def test_description_without_rows_and_columns_of_other_types_are_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "t", {"start_s": whole(np.zeros(3, np.float32))}, {"rows": "three"})
    table = Table.open(tmp_path / "t")
    with pytest.raises(TornTable, match="does not say how many rows"):
        _ = table.rows
    with pytest.raises(TornTable, match=r"start_s: found float32 of the shape \(3,\)"):
        table.numbers("start_s", "i", 1)


def test_pipe_in_place_of_a_table_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t")
    with pytest.raises(TornTable, match="it is a pipe"):
        Table.open(tmp_path / "t")
