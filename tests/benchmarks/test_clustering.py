"""The clustering benchmark: the same rows and the same objective for all contenders, and no files left behind."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.training import clustering
from benchmarks.training.clustering import run_clustering_bench, write_rows
from benchmarks.training.clustering_contenders import FAISS, FAISS_SAMPLE, OURS, ClusteringCase, ClusteringResult
from trichord.core.errors import UserError

SMALL = ClusteringCase(rows=3000, dim=16, clusters=5, iterations=4)


def test_all_contenders_cluster_the_same_rows(tmp_path: Path) -> None:
    beats: list[None] = []
    rows = run_clustering_bench(SMALL, tmp_path / "new", lambda: beats.append(None))
    assert [row["who"] for row in rows] == [OURS, FAISS, FAISS_SAMPLE]
    assert rows[0]["met"] is True and rows[0]["times_ours"] == 1 and beats and json.dumps(rows)
    assert all(row["met"] is None and row["memory_goal"] is None for row in rows[1:])
    assert all(0 < row["objective"] < 2 and 1 <= row["iterations"] <= 4 and row["peak_mib"] > 10 for row in rows)
    assert not list((tmp_path / "new").iterdir())


def test_write_rows_writes_as_many_unit_vectors_as_requested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "_BLOCK", 70)
    write_rows(tmp_path / "rows", SMALL.model_copy(update={"rows": 200}))
    rows_ND = np.fromfile(tmp_path / "rows", np.float16).reshape(-1, 16).astype(np.float32)
    assert len(np.unique(rows_ND, axis=0)) == 200
    np.testing.assert_allclose((rows_ND**2).sum(axis=1), 1, atol=5e-3)


def test_goal_requires_small_memory_and_the_objective_of_faiss() -> None:
    results = {name: ClusteringResult(wall_s=4, cpu_s=8, peak_mib=2000, iterations=5) for name in (OURS, FAISS)}
    good = clustering._row(OURS, results, {OURS: 1.0, FAISS: 1.0})
    assert good["met"] is True and clustering._row(FAISS, results, {OURS: 1.0, FAISS: 1.0})["met"] is None
    assert clustering._row(OURS, results, {OURS: 1.02, FAISS: 1.0})["met"] is False
    results[OURS] = results[OURS].model_copy(update={"peak_mib": 2049})
    assert clustering._row(OURS, results, {OURS: 1.0, FAISS: 1.0})["met"] is False


def test_full_disk_is_reported_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**30))
    with pytest.raises(
        UserError, match=r"has no room for 1.1 GiB of rows\. Name another with --folder, or fewer --rows"
    ):
        run_clustering_bench(ClusteringCase(rows=1_200_000), tmp_path, lambda: None)
    assert not list(tmp_path.iterdir())


def test_failed_process_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_rows(tmp_path / "rows", SMALL)
    more = SMALL.model_copy(update={"rows": 4000})
    with pytest.raises(UserError, match="process of 'FAISS, all rows in memory' ended with exit status 1"):
        clustering._run(FAISS, more, tmp_path / "rows", lambda: None)
    assert "cannot reshape" in capfd.readouterr().err
