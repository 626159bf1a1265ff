"""Who takes part in `bench clustering`: our k-means, which streams a file, and FAISS's, which takes an array.

Each runs as a process of its own and says what it took. FAISS's never imports torch: two libraries' threads in one
process get in each other's way, and its memory would count torch's.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

OURS, FAISS, FAISS_SAMPLE = "ours, from disk", "FAISS, all rows in memory", "FAISS, its own sample"


class ClusteringCase(BaseModel):
    """How many rows of how many features, and what is asked of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = 2_000_000
    dim: int = 512
    clusters: int = 1024
    iterations: int = 5


class Taken(BaseModel):
    """What a contender took from file to centroids."""

    wall_s: float
    cpu_s: float
    peak_mib: float
    iterations: int


def cluster_streaming(case: ClusteringCase, file: Path) -> tuple[np.ndarray, int]:
    """Read the file again in every pass."""
    import torch

    from trichord.pretrain.clustering.lloyd import cluster
    from trichord.pretrain.clustering.rows import FileRows

    found = cluster(FileRows(file, case.dim, torch.float16), case.clusters, iterations=case.iterations)
    return found.centroids_KD.numpy(), found.iterations


def cluster_by_faiss(case: ClusteringCase, file: Path, most_rows: int | None = None) -> tuple[np.ndarray, int]:
    """Read all rows as float32, as FAISS wants them; it draws a sample of its own where it is not told otherwise."""
    import faiss

    rows_ND = np.empty((case.rows, case.dim), dtype=np.float32)
    with file.open("rb") as stored:
        for part_nD in np.array_split(rows_ND, max(1, case.rows // 10000)):
            part_nD[:] = np.fromfile(stored, np.float16, part_nD.size).reshape(part_nD.shape)
    settings = {} if most_rows is None else {"max_points_per_centroid": most_rows}
    means = faiss.Kmeans(case.dim, case.clusters, niter=case.iterations, spherical=True, seed=1, **settings)
    means.train(rows_ND)
    return np.asarray(means.centroids), len(means.iteration_stats or ())


CONTENDERS: dict[str, Callable[[ClusteringCase, Path], tuple[np.ndarray, int]]] = {
    OURS: cluster_streaming,
    FAISS: lambda case, file: cluster_by_faiss(case, file, most_rows=case.rows),
    FAISS_SAMPLE: cluster_by_faiss,
}


def main(name: str, case_json: str, file: str, answer: str) -> None:
    """Cluster the file, keep the centroids beside it and say what that took."""
    case = ClusteringCase.model_validate_json(case_json)
    started_s, cpu_s = time.monotonic(), time.process_time()
    centroids_KD, iterations = CONTENDERS[name](case, Path(file))
    taken = {"wall_s": time.monotonic() - started_s, "cpu_s": time.process_time() - cpu_s, "iterations": iterations}
    np.save(answer, centroids_KD)
    lines = Path("/proc/self/status").read_text().splitlines()
    peak_kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    print(json.dumps(taken | {"peak_mib": peak_kib / 1024}))


if __name__ == "__main__":
    main(*sys.argv[1:])
