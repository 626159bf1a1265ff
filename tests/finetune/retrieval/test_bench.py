"""The bench measures what it says, at a small size: all contenders, both kinds of queries, and memory as it was."""

from __future__ import annotations

import json

import numpy as np
import pytest

from finetune.retrieval.bench_world import SearchCase, World
from launch import cli


def test_search_is_measured_beside_faiss(capsys: pytest.CaptureFixture[str]) -> None:
    typed = "bench search --rows 1500 --dim 16 --queries 40 --rounds 1 --memory-gb 0.5 --json"
    assert cli.main(typed.split()) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["queries"], row["whose"]) for row in rows] == [
        (kind, whose) for kind in ("such as are held", "captions") for whose in ("FAISS Flat", "ours", "FAISS HNSW32")
    ]
    for row in rows:
        assert row["queries_per_s"] > 0 and row["recall@10"] > 0.9
        assert (row["goal"], row["met"] is None) == ((30.0, False) if row is rows[1] else (None, True))
    assert rows[0]["recall@10"] == rows[1]["recall@10"] == 1.0  # so few are all looked at
    assert rows[1]["kind"] == "flat" and rows[1]["bytes_per_vector"] == 32
    assert rows[1]["build_mib"] < rows[1]["budget_mib"] and rows[1]["open_and_first_s"] > 0
    assert cli.main(["bench", "search", "--memory-gb", "0"]) == 2
    assert "expected a number above 0" in capsys.readouterr().err


def test_captions_lie_elsewhere_than_what_they_find() -> None:
    world = World(SearchCase(rows=4000, dim=64))
    held_ND = np.concatenate([block for _, block in world.blocks()])
    assert np.array_equal(next(world.blocks())[1], World(SearchCase(rows=4000, dim=64)).videos(4000, "held", 0))
    captions_ND = world.captions(held_ND)
    for rows_ND in (held_ND, captions_ND):
        assert np.linalg.norm(rows_ND, axis=1) == pytest.approx(1, abs=1e-5)
    to_video_N = (held_ND @ held_ND.mean(axis=0)) / np.linalg.norm(held_ND.mean(axis=0))
    gap_D = captions_ND.mean(axis=0) - held_ND.mean(axis=0)
    assert (captions_ND @ gap_D).min() > (held_ND @ gap_D).mean()
    own_N = (captions_ND * held_ND).sum(axis=1)
    assert 0.3 < own_N.mean() < 0.95 and np.abs(to_video_N).mean() < 0.5
    others_N = (captions_ND * np.roll(held_ND, 1, axis=0)).sum(axis=1)
    assert (own_N > others_N).mean() > 0.95
