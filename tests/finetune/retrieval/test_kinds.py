"""The choice of the kind of search, its memory, and vectors on disk that equal FAISS's to the byte."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.finetune.retrieval.stage import clustered
from tests.warm import HANGS_AFTER_S
from trichord.core.errors import UserError
from trichord.finetune.retrieval.kinds import choose, list_count
from trichord.finetune.retrieval.spec import DType, Kind
from trichord.finetune.retrieval.vectors import empty_flat, exact_neighbours, open_vectors, write_vectors

GB = 10**9
ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("count", "memory", "expected"),
    [
        (1000, GB, "flat"),
        (50_000, GB, "flat"),
        (100_000, GB, "ivf_pq"),  # with vectors in memory
        (100_000, GB // 10, "ivf_sq8"),
        (100_000, GB // 100, "ivf_pq"),
        (1_000_000, 4 * GB, "ivf_pq"),  # with vectors in memory
        (1_000_000, GB, "ivf_sq8"),
        (1_000_000, GB // 10, "ivf_pq"),  # with vectors on the disk
    ],
)
def test_kind_is_chosen_by_count_and_memory(count: int, memory: int, expected: Kind) -> None:
    assert choose(count, 512, "float16", memory) == expected


def test_number_of_lists_is_limited_by_the_training_vectors() -> None:
    assert list_count(1_000_000, 1_000_000) == 4000
    assert list_count(1_000_000, 39_000) == 1000
    assert list_count(10, 10) == 1


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_vectors_are_written_as_faiss_writes_them(dtype: DType, tmp_path: Path) -> None:
    rows_ND = clustered(500, 24, 0).astype(dtype)
    write_vectors(tmp_path / "v", 24, dtype, 500, [rows_ND[:123], rows_ND[123:]])
    by_faiss = empty_flat(24, dtype)
    by_faiss.add(rows_ND.astype(np.float32))
    assert (tmp_path / "v").read_bytes() == faiss.serialize_index(by_faiss).tobytes()
    index, found_ND = open_vectors(tmp_path / "v", 24, dtype, 500)
    assert np.array_equal(found_ND, rows_ND) and np.array_equal(index.reconstruct(77), rows_ND[77].astype(np.float32))
    with pytest.raises(UserError, match=r"expected .* of vectors by the catalogue"):
        open_vectors(tmp_path / "v", 24, dtype, 501)


def test_exact_neighbours_equal_those_of_a_full_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trichord.finetune.retrieval.vectors._BLOCK_BYTES", 4 * 24 * 37)  # many blocks
    rows_ND, queries_QD = clustered(500, 24, 1), clustered(9, 24, 2)
    scores_QN = queries_QD @ rows_ND.T
    scores_Qk, rows_Qk = exact_neighbours(rows_ND, queries_QD, 6)
    assert_nearest(rows_Qk, scores_QN)
    assert scores_Qk == pytest.approx(np.take_along_axis(scores_QN, rows_Qk, axis=1), abs=1e-5)
    some = np.arange(3, 500, 7)
    only_some_QN = np.where(np.isin(np.arange(500), some), scores_QN, -np.inf)
    assert_nearest(exact_neighbours(rows_ND, queries_QD, 6, some)[1], only_some_QN)
    assert (exact_neighbours(rows_ND, queries_QD, 6, some[:4])[1][:, 4:] == -1).all()


def assert_nearest(rows_Qk: NDArray[np.int64], scores_QN: NDArray[np.float32]) -> None:
    """Assert distinct rows with the best scores, best first; scores that differ by rounding may be swapped."""
    assert all(len(set(rows_k)) == rows_Qk.shape[1] for rows_k in rows_Qk.tolist())
    best_Qk = np.sort(scores_QN, axis=1)[:, ::-1][:, : rows_Qk.shape[1]]
    assert np.take_along_axis(scores_QN, rows_Qk, axis=1) == pytest.approx(best_Qk, abs=1e-5)


@pytest.mark.parametrize("first", ["torch", "faiss"])
def test_torch_and_faiss_work_in_one_process_in_any_order_of_import(first: str) -> None:
    """Each has its own OpenMP: both compute in turn, with the requested number of threads, and agree.

    Neither spins while the other works: a search after work of torch takes about as much CPU time as alone.
    """
    second = {"torch": "faiss", "faiss": "torch"}[first]
    script = f"""
import {first}
import {second}
import time, numpy as np, torch, faiss
torch.set_num_threads(2); faiss.omp_set_num_threads(2)
rows = np.random.default_rng(0).standard_normal((4000, 64)).astype(np.float32)
index = faiss.IndexFlatIP(64); index.add(rows)
for turn in range(3):
    asked = rows[turn : turn + 200]
    scores, _ = index.search(asked, 5)
    by_torch = (torch.from_numpy(asked) @ torch.from_numpy(rows).T).topk(5).values.numpy()
    assert np.abs(scores - by_torch).max() < 1e-3
    index.add(rows[:10] * 0)
def seconds(before):
    taken = 0.0
    for _ in range(12):
        before()
        started = time.process_time()
        index.search(rows[:200], 5)
        taken += time.process_time() - started
    return taken
by_torch = torch.from_numpy(rows)
alone, beside = (min(seconds(before) for _ in range(3)) for before in (lambda: None, lambda: by_torch @ by_torch.T))
assert beside < 2.5 * alone, (alone, beside)
assert (torch.get_num_threads(), faiss.omp_get_max_threads()) == (2, 2)
print("done")
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment["OMP_WAIT_POLICY"] = "PASSIVE"  # as in every command of trichord that trains
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=HANGS_AFTER_S
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_index_is_changed_without_torch_and_text_queries_import_no_decoder() -> None:
    """Each import would add to the time from a cold start to a result."""
    script = (
        "import sys; import trichord.finetune.retrieval.index, trichord.finetune.retrieval.changing; "
        "print('torch' in sys.modules); "
        "import trichord.finetune.retrieval.embedder, trichord.pretrain.objectives.video_text.objective; "
        "print([name for name in ('av', 'webdataset', 'open_clip', 'deepspeed') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "False\n[]\n"
