"""Clustering millions of embeddings on disk, beside FAISS's k-means: time, memory and objective.

All contenders cluster the same file, spherically, with the same number of iterations, on all cores, one after the
other, each in a process of its own. The objective is the mean squared distance of rows to the nearest centroid, over
the first rows of the file, which are in random order. Times run from the file to the centroids, imports included.
Legend: N rows, n of a block, D features, C centres that rows are drawn around.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.harness import Beat
from benchmarks.processes import run_alone
from benchmarks.training.clustering_contenders import CONTENDERS, FAISS, OURS, ClusteringCase, ClusteringResult
from trichord.core.console import track
from trichord.core.errors import UserError
from trichord.pretrain.clustering.rows import TensorRows, sweep

MEMORY_GOAL_MIB, OBJECTIVE_GOAL = 2048, 1.01  # of our process; of FAISS's objective on all rows, at most
_BLOCK, _EVALUATED = 20_000, 200_000  # rows
_CENTRES, _NOISE = 4000, 1.0  # overlapping blobs, whose sizes fall with the square root of their rank


def run_clustering_bench(case: ClusteringCase, folder: Path, beat: Beat) -> list[dict[str, Any]]:
    """Write the rows below a folder, run all contenders on them, and return a row of figures for each."""
    needed = case.rows * case.dim * 2
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < 1.1 * needed:
        raise UserError(
            f"{folder} has no room for {needed / 2**30:.1f} GiB of rows. Name another with --folder, or fewer --rows."
        )
    with tempfile.TemporaryDirectory(prefix="trichord-clustering-", dir=folder) as place:
        file = Path(place) / "rows.float16"
        write_rows(file, case)
        results = {name: _run(name, case, file, beat) for name in CONTENDERS}
        evaluated_ND = np.fromfile(file, np.float16, min(_EVALUATED, case.rows) * case.dim).reshape(-1, case.dim)
        rows = TensorRows(torch.from_numpy(evaluated_ND))
        objectives = {
            name: sweep(rows, torch.from_numpy(np.load(_answer(file, name)))).objective for name in CONTENDERS
        }
    return [_row(name, results, objectives) for name in CONTENDERS]


def write_rows(file: Path, case: ClusteringCase) -> None:
    """Draw unit vectors around random centres, in random order."""
    generator = torch.Generator().manual_seed(0)
    centres_CD = functional.normalize(torch.randn(_CENTRES, case.dim, generator=generator))
    weights_C = torch.arange(1.0, _CENTRES + 1).rsqrt()
    with file.open("wb") as out:
        for first in track(range(0, case.rows, _BLOCK), "blocks of the file"):
            rows_nD = _draw(centres_CD, weights_C, min(_BLOCK, case.rows - first), generator)
            out.write(rows_nD.half().numpy().tobytes())


def _draw(centres_CD: Tensor, weights_C: Tensor, count: int, generator: torch.Generator) -> Tensor:
    of_n = torch.multinomial(weights_C, count, replacement=True, generator=generator)
    dim = centres_CD.shape[1]
    away_nD = torch.randn(count, dim, generator=generator).mul_(_NOISE / dim**0.5)
    return functional.normalize(away_nD.add_(centres_CD[of_n]))


def _answer(file: Path, name: str) -> Path:
    return file.with_name(f"{list(CONTENDERS).index(name)}.npy")


def _run(name: str, case: ClusteringCase, file: Path, beat: Beat) -> ClusteringResult:
    """Run a contender in a process of its own, on all cores."""
    arguments = (name, case.model_dump_json(), str(file), str(_answer(file, name)))
    # Threads that wait for others sleep: on a busy machine, spinning takes the time of other processes.
    environment = {"OMP_NUM_THREADS": str(os.cpu_count()), "OMP_WAIT_POLICY": "passive"}
    try:
        printed = run_alone(
            name, "benchmarks.training.clustering_contenders", *arguments, beat=beat, environment=environment
        )
    except UserError as error:
        raise UserError(f"{error}. FAISS needs twice the size of the file: try fewer --rows.") from error
    return ClusteringResult.model_validate_json(printed[-1])


def _row(name: str, results: dict[str, ClusteringResult], objectives: dict[str, float]) -> dict[str, Any]:
    mine, is_ours = results[name], name == OURS
    is_good = mine.peak_mib <= MEMORY_GOAL_MIB and objectives[name] <= OBJECTIVE_GOAL * objectives[FAISS]
    return {
        "who": name,
        "wall_s": round(mine.wall_s, 1),
        "cpu_s": round(mine.cpu_s, 1),
        "times_ours": round(mine.wall_s / results[OURS].wall_s, 2),
        "peak_mib": round(mine.peak_mib),
        "memory_goal": MEMORY_GOAL_MIB if is_ours else None,
        "objective": round(objectives[name], 5),
        "iterations": mine.iterations,
        "met": is_good if is_ours else None,
    }
