"""The contenders of `benchmarks clustering`: our k-means, which streams a file, and FAISS's, which takes an array.

Each runs in a process of its own and prints what it took. That of FAISS never imports torch: the threads of two
libraries in one process disturb each other, and torch would count towards its memory.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from benchmarks.harness import timed
from benchmarks.processes import memory_mib

OURS, FAISS, FAISS_SAMPLE = "ours, from disk", "FAISS, all rows in memory", "FAISS, its own sample"


class ClusteringCase(BaseModel):
    """How many rows of how many features, and how they are clustered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = 2_000_000
    dim: int = 512
    clusters: int = 1024
    iterations: int = 5


class ClusteringResult(BaseModel):
    """What a contender took from the file to the centroids."""

    wall_s: float
    cpu_s: float
    peak_mib: float
    iterations: int


def cluster_streaming(case: ClusteringCase, file: Path) -> tuple[np.ndarray, int]:
    """Cluster with our k-means, which reads the file again in every pass."""
    import torch

    from trichord.pretrain.clustering.lloyd import cluster
    from trichord.pretrain.clustering.rows import FileRows

    found = cluster(FileRows(file, case.dim, torch.float16), case.clusters, iterations=case.iterations)
    return found.centroids_KD.numpy(), found.iterations


def cluster_by_faiss(case: ClusteringCase, file: Path, most_rows: int | None = None) -> tuple[np.ndarray, int]:
    """Read all rows as float32, as FAISS needs them, and cluster them; without `most_rows` FAISS draws a sample."""
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
    """Cluster the file, write the centroids beside it and print what that took."""
    case = ClusteringCase.model_validate_json(case_json)
    cpu_s, (wall_s, (centroids_KD, iterations)) = timed(
        lambda: timed(lambda: CONTENDERS[name](case, Path(file)), time.monotonic)
    )
    np.save(answer, centroids_KD)
    result = ClusteringResult(wall_s=wall_s, cpu_s=cpu_s, peak_mib=memory_mib("VmHWM"), iterations=iterations)
    print(result.model_dump_json())


if __name__ == "__main__":
    main(*sys.argv[1:])
