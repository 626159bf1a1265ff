"""`python -m benchmarks clustering`: the command."""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser, Namespace
from pathlib import Path

from trichord.core.command import Command, add_json, at_least
from trichord.core.console import pulse, show_figures


def _declare(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--rows", type=at_least(2), default=2_000_000, metavar="N", help="of 512 float16 values (default: 2 million)"
    )
    parser.add_argument("--clusters", type=at_least(2), default=1024, metavar="K", help="to find (default: 1024)")
    parser.add_argument(
        "--iterations", type=at_least(1), default=5, metavar="N", help="of each k-means (default: 5, some minutes)"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()),
        metavar="DIR",
        help="where the rows are written for the time being, 1 KiB each (default: the system's temporary folder)",
    )
    add_json(parser)


def _run(arguments: Namespace) -> int:
    from benchmarks.training.clustering import run_clustering_bench
    from benchmarks.training.clustering_contenders import ClusteringCase

    case = ClusteringCase(rows=arguments.rows, clusters=arguments.clusters, iterations=arguments.iterations)
    with pulse("seconds of clustering") as beat:
        rows = run_clustering_bench(case, arguments.folder, beat)
    show_figures(f"k-means of {case.rows:,} x {case.dim} on disk, K = {case.clusters:,}", rows, arguments.json)
    return 0


CLUSTERING = Command(
    "clustering",
    "measure k-means of embeddings on disk beside FAISS's in memory",
    _declare,
    _run,
    ("python -m benchmarks clustering", "python -m benchmarks clustering --rows 200000 --clusters 256 --folder runs"),
)
