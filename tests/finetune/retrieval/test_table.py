"""Tables are readable by safetensors, and their texts are found as in a loop."""

from __future__ import annotations

import random
from pathlib import Path

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
