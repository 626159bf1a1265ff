"""Rows in a file equal rows in memory, chunk by chunk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.pretrain.clustering.row_stage import blobs
from trichord.core.errors import UserError
from trichord.pretrain.clustering import rows
from trichord.pretrain.clustering.lloyd import cluster
from trichord.pretrain.clustering.rows import FileRows, TensorRows


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_rows_in_a_file_equal_those_in_memory(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "CHUNK_VALUES", 24 * 300)
    rows_ND = blobs(1000, 24, 6, noise=0.8)[0].to(dtype)
    (tmp_path / "rows").write_bytes(rows_ND.numpy().tobytes())
    kept, stored = TensorRows(rows_ND), FileRows(tmp_path / "rows", 24, dtype)
    assert (stored.count, stored.dim) == (1000, 24)
    for _ in range(2):  # several times from the start
        assert [len(chunk) for chunk in stored.chunks()] == [300, 300, 300, 100]
        assert torch.equal(torch.cat([chunk.clone() for chunk in stored.chunks()]), rows_ND.float())
    one, other = cluster(kept, 6), cluster(stored, 6)
    assert torch.equal(one.centroids_KD, other.centroids_KD) and torch.equal(one.labels_N, other.labels_N)


def test_chosen_rows_are_returned_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "CHUNK_VALUES", 24 * 3)
    rows_ND, _ = blobs(20, 24, 6, noise=0.8)
    chosen = torch.tensor([4, 3, 19, 0, 4])
    found = TensorRows(rows_ND.half(), chosen)
    assert found.count == 5
    assert torch.equal(torch.cat(list(found.chunks())), rows_ND.half()[chosen].float())


def test_file_of_other_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(bytes(480))
    assert FileRows(path, 24).count == 10
    with pytest.raises(UserError, match="found 480 bytes, expected a multiple of 50"):
        FileRows(path, 25)
    stored = FileRows(path, 24)
    path.write_bytes(bytes(100))
    with pytest.raises(UserError, match="was truncated while it was read: 380 bytes"):
        list(stored.chunks())
    path.write_bytes(b"")
    assert list(FileRows(path, 24).chunks()) == []
