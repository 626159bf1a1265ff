"""Clustering millions of embeddings that lie on disk, beside FAISS's k-means: time, memory and how near rows end up.

All cluster the same file, spherically, in as many iterations, with all cores, one after the other, each in a process of
its own. What they find is judged alike: by the mean squared distance of rows to the nearest centroid, over the file's
beginning, for rows come in no order. Times run from the file to centroids, imports included.
Legend: N rows, n of a part, D features, C centres that rows are drawn around.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.training.clustering_contenders import CONTENDERS, FAISS, OURS, ClusteringCase, Taken
from trichord.core.console import track
from trichord.core.errors import UserError
from trichord.pretrain.clustering.rows import TensorRows
from trichord.pretrain.clustering.sweep import sweep

MEMORY_GOAL_MIB, OBJECTIVE_GOAL = 2048, 1.01  # of our process; at most so many times FAISS's objective on all rows
_PART, _JUDGED = 20_000, 200_000  # rows
_CENTRES, _NOISE = 4000, 1.0  # blobs that overlap, of sizes that fall as the root of their rank


def run_clustering_bench(case: ClusteringCase, folder: Path, beat: Callable[[], None]) -> list[dict[str, Any]]:
    """Write the rows below a folder, let all cluster them, and give a row of figures for each."""
    wanted = case.rows * case.dim * 2
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < 1.1 * wanted:
        raise UserError(
            f"{folder} has no room for {wanted / 2**30:.1f} GiB of rows. Name another with --folder, or fewer --rows."
        )
    with tempfile.TemporaryDirectory(prefix="trichord-clustering-", dir=folder) as place:
        file = Path(place) / "rows.float16"
        write_rows(file, case)
        taken = {name: _run(name, case, file, beat) for name in CONTENDERS}
        judged_ND = np.fromfile(file, np.float16, min(_JUDGED, case.rows) * case.dim).reshape(-1, case.dim)
        rows = TensorRows(torch.from_numpy(judged_ND))
        objectives = {
            name: sweep(rows, torch.from_numpy(np.load(_answer(file, name)))).objective for name in CONTENDERS
        }
    return [_row(name, taken, objectives) for name in CONTENDERS]


def write_rows(file: Path, case: ClusteringCase) -> None:
    """Draw unit rows around random centres, in no order."""
    generator = torch.Generator().manual_seed(0)
    centres_CD = functional.normalize(torch.randn(_CENTRES, case.dim, generator=generator))
    weights_C = torch.arange(1.0, _CENTRES + 1).rsqrt()
    with file.open("wb") as out:
        for first in track(range(0, case.rows, _PART), "parts of the file"):
            rows_nD = _draw(centres_CD, weights_C, min(_PART, case.rows - first), generator)
            out.write(rows_nD.half().numpy().tobytes())


def _draw(centres_CD: Tensor, weights_C: Tensor, count: int, generator: torch.Generator) -> Tensor:
    of_n = torch.multinomial(weights_C, count, replacement=True, generator=generator)
    dim = centres_CD.shape[1]
    away_nD = torch.randn(count, dim, generator=generator).mul_(_NOISE / dim**0.5)
    return functional.normalize(away_nD.add_(centres_CD[of_n]))


def _answer(file: Path, name: str) -> Path:
    return file.with_name(f"{list(CONTENDERS).index(name)}.npy")


def _run(name: str, case: ClusteringCase, file: Path, beat: Callable[[], None]) -> Taken:
    """Wait for a contender's process, with a beat each second."""
    words = [
        sys.executable,
        "-m",
        "benchmarks.training.clustering_contenders",
        name,
        case.model_dump_json(),
        str(file),
    ]
    # Threads that wait for others sleep: on a machine that does other work as well, spinning takes the others' time.
    environment = {**os.environ, "OMP_NUM_THREADS": str(os.cpu_count()), "OMP_WAIT_POLICY": "passive"}
    with subprocess.Popen(
        [*words, str(_answer(file, name))], env=environment, stdout=subprocess.PIPE, text=True
    ) as run:
        try:
            while run.poll() is None:
                time.sleep(1)
                beat()
        finally:
            run.kill()  # nobody waits for it any more; of no effect once it has ended
        told = run.stdout.read() if run.stdout else ""
    if run.returncode:
        raise UserError(
            f"bench clustering: the process of {name!r} ended with exit status {run.returncode}; -9 says that memory "
            "ran out. FAISS needs twice the file's size: try fewer --rows."
        )
    return Taken.model_validate_json(told.splitlines()[-1])


def _row(name: str, taken: dict[str, Taken], objectives: dict[str, float]) -> dict[str, Any]:
    mine, is_ours = taken[name], name == OURS
    is_good = mine.peak_mib <= MEMORY_GOAL_MIB and objectives[name] <= OBJECTIVE_GOAL * objectives[FAISS]
    return {
        "who": name,
        "wall_s": round(mine.wall_s, 1),
        "cpu_s": round(mine.cpu_s, 1),
        "times_ours": round(mine.wall_s / taken[OURS].wall_s, 2),
        "peak_mib": round(mine.peak_mib),
        "memory_goal": MEMORY_GOAL_MIB if is_ours else None,
        "objective": round(objectives[name], 5),
        "iterations": mine.iterations,
        "met": is_good if is_ours else None,
    }
