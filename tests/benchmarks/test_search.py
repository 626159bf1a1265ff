"""The search benchmark at a small size: all contenders, both kinds of queries, memory, and kept files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.search.run import autofaiss_links
from benchmarks.search.synthetic import SearchCase, SyntheticEmbeddings


def test_search_is_compared_with_faiss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("--rows", "1500", "--dim", "16", "--queries", "40", "--rounds", "1", "--memory-gb", "0.5")
    typed = ["search", *sizes, "--keep"]
    assert main([*typed, str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    contenders = ("FAISS Flat", "FAISS HNSW15, autofaiss's choice", "FAISS HNSW32", "ours")
    assert [(row["queries"], row["whose"]) for row in rows] == [
        (kind, whose) for kind in ("videos", "captions") for whose in contenders
    ]
    for row in rows:
        assert row["queries_per_s"] > 0 and row["recall@10"] > 0.9
        assert row["goal"] == (30.0 if row is rows[3] else None) and (row["met"] is None) == (row["whose"] != "ours")
    flat, _, graph, ours, *_, ours_by_captions = rows
    assert flat["recall@10"] == ours["recall@10"] == 1.0 and ours_by_captions["met"]  # with so few, all are compared
    assert ours["kind"] == "flat" and ours["bytes_per_vector"] == 32 and graph["bytes_per_vector"] == 64 + 272
    assert ours["build_mib"] < ours["build_mib_with_maps"] < ours["budget_mib"] and ours["open_and_first_s"] > 0
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert main(["search", "--rows", "1600", "--dim", "16", "--keep", str(tmp_path)]) == 2
    assert "was kept from another case" in capsys.readouterr().err
    assert main([*typed, str(tmp_path)]) == 0  # a table, from what was kept
    shown = capsys.readouterr().out
    assert "ours, built and loaded" in shown and f"{ours['build_mib']:,}" in shown
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert main(["search", "--memory-gb", "0"]) == 2
    assert "expected a number above 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("count", "memory_gb", "links"),
    [(500, 4, None), (9999, 4, 15), (200_000, 0.41, 19), (1_000_000, 4, 32), (1_000_000, 1.95, None)],
)
def test_autofaiss_links_are_those_that_autofaiss_chose(count: int, memory_gb: float, links: int | None) -> None:
    """The choices of autofaiss 2.18.0 for 512 features; None stands for Flat and OPQ256_768,IVF16384_HNSW32,PQ256x8."""
    assert autofaiss_links(count, 512, memory_gb) == links


def test_captions_lie_in_another_cone_than_videos() -> None:
    embeddings = SyntheticEmbeddings(SearchCase(rows=4000, dim=64))
    held_ND = np.concatenate([block for _, block in embeddings.blocks()])
    assert np.array_equal(
        next(embeddings.blocks())[1], SyntheticEmbeddings(SearchCase(rows=4000, dim=64)).videos(4000, "held", 0)
    )
    captions_ND = embeddings.captions(held_ND)
    for rows_ND in (held_ND, captions_ND):
        assert np.linalg.norm(rows_ND, axis=1) == pytest.approx(1, abs=1e-5)
    to_video_N = (held_ND @ held_ND.mean(axis=0)) / np.linalg.norm(held_ND.mean(axis=0))
    gap_D = captions_ND.mean(axis=0) - held_ND.mean(axis=0)
    assert (captions_ND @ gap_D).min() > (held_ND @ gap_D).mean()
    own_N = (captions_ND * held_ND).sum(axis=1)
    assert 0.3 < own_N.mean() < 0.95 and np.abs(to_video_N).mean() < 0.5
    others_N = (captions_ND * np.roll(held_ND, 1, axis=0)).sum(axis=1)
    assert (own_N > others_N).mean() > 0.95
