"""The commands that compare a training step, a scan, losses, clustering and backbones with other implementations."""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser, Namespace
from pathlib import Path

from trichord.core.command import Command, add_json, at_least
from trichord.core.console import pulse, show_figures


def _declare_step(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--sizes",
        nargs="+",
        choices=("tiny", "small", "base"),
        default=["tiny", "small"],
        help="sizes of the network, named as for a ViT (default: tiny small; base takes many minutes and 16 GiB for "
        "each contender)",
    )
    parser.add_argument("--rounds", type=at_least(1), default=2, metavar="N", help="number of timed steps of each")
    parser.add_argument(
        "--all-views", action="store_true", help="measure views of varying frames for the larger networks as well"
    )
    add_json(parser)


def _run_step(arguments: Namespace) -> int:
    from benchmarks.training.step import ALIKE, CASES, run_step_bench

    chosen = {
        (size, views): case
        for (size, views), case in CASES.items()
        if size in arguments.sizes and (views == ALIKE or size == "tiny" or arguments.all_views)
    }
    with pulse("steps") as beat:
        rows = run_step_bench(chosen, arguments.rounds, beat)
    show_figures("one SVT step beside the released code's: CPU seconds, peak MiB", rows, arguments.json)
    return 0


def _declare_scan(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--rounds",
        type=at_least(1),
        default=3,
        metavar="N",
        help="number of timed scans of each; the shortest time counts",
    )
    add_json(parser)


def _run_scan(arguments: Namespace) -> int:
    from benchmarks.training.scan import CASES, MAMBAPY, contenders, run_scan_bench

    with pulse("scans") as beat:
        rows = run_scan_bench(CASES, arguments.rounds, beat)
    left_out = "" if MAMBAPY in contenders() else "; mambapy is not installed (pip install trichord[bench])"
    show_figures(f"selective scan, forward and backward: CPU ms, peak MiB{left_out}", rows, arguments.json)
    return 0


def _declare_contrast(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--batches",
        nargs="+",
        type=at_least(2),
        metavar="N",
        help="pairs in a batch (default: 1024 4096 16384; with the last, open_clip takes 4 GiB and some minutes)",
    )
    parser.add_argument("--rounds", type=at_least(1), default=2, metavar="N", help="number of timed passes of each")
    parser.add_argument(
        "--memory", action="store_true", help="measure the peak memory of InfoNCE up to 65536 pairs instead"
    )
    add_json(parser)


def _run_contrast(arguments: Namespace) -> int:
    from benchmarks.training.contrast import (
        BATCHES,
        GROWING_BATCHES,
        ContrastCase,
        run_contrast_bench,
        run_memory_bench,
    )

    with pulse("losses") as beat:
        if arguments.memory:
            rows = run_memory_bench(arguments.batches or GROWING_BATCHES, beat=beat)
            title = "InfoNCE's memory above its rows, by pairs in the batch: peak MiB, fitted exponent"
        else:
            batches = arguments.batches or BATCHES
            cases = [ContrastCase(loss="info_nce", batch=batch) for batch in batches]
            cases += [ContrastCase(loss="sigmoid", batch=batch) for batch in batches]
            rows = run_contrast_bench(cases, arguments.rounds, beat)
            title = "losses over pairs of 512 features, forward and backward: CPU ms, peak MiB"
    show_figures(title, rows, arguments.json)
    return 0


def _declare_clustering(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--rows", type=at_least(2), default=2_000_000, metavar="N", help="number of rows of 512 float16 values"
    )
    parser.add_argument("--clusters", type=at_least(2), default=1024, metavar="K", help="number of clusters")
    parser.add_argument(
        "--iterations", type=at_least(1), default=5, metavar="N", help="iterations of each k-means; five take minutes"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()),
        metavar="DIR",
        help="folder where the rows are written during the run, 1 KiB each",
    )
    add_json(parser)


def _run_clustering(arguments: Namespace) -> int:
    from benchmarks.training.clustering import run_clustering_bench
    from benchmarks.training.clustering_contenders import ClusteringCase

    case = ClusteringCase(rows=arguments.rows, clusters=arguments.clusters, iterations=arguments.iterations)
    with pulse("seconds of clustering") as beat:
        rows = run_clustering_bench(case, arguments.folder, beat)
    show_figures(f"k-means of {case.rows:,} x {case.dim} on disk, K = {case.clusters:,}", rows, arguments.json)
    return 0


def _declare_models(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--sizes",
        nargs="+",
        choices=("small", "base"),
        default=["small", "base"],
        help="sizes of the networks, named as for a ViT (default: small base; base takes some minutes and 8 GiB)",
    )
    parser.add_argument("--rounds", type=at_least(1), default=3, metavar="N", help="number of timed steps of each")
    add_json(parser)


def _run_models(arguments: Namespace) -> int:
    from benchmarks.training.models import CONTESTS, measurable, run_model_bench

    chosen = {
        name: contest for name, contest in CONTESTS.items() if any(f", {size}" in name for size in arguments.sizes)
    }
    able = measurable(chosen)
    left_out = "; without bf16, which this processor would emulate" if len(able) < len(chosen) else ""
    with pulse("steps") as beat:
        rows = run_model_bench(able, arguments.rounds, beat)
    show_figures(f"backbones, forward and backward: CPU seconds, peak MiB{left_out}", rows, arguments.json)
    return 0


def _declare_growth(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--rounds", type=at_least(1), default=5, metavar="N", help="number of timed rounds; each yields an exponent"
    )
    add_json(parser)


def _run_growth(arguments: Namespace) -> int:
    from benchmarks.training.growth import GROWTHS, run_growth_bench

    with pulse("passes") as beat:
        rows = run_growth_bench(GROWTHS, arguments.rounds, beat=beat)
    show_figures("cost by frames, forward and backward: CPU ms, fitted exponent", rows, arguments.json)
    return 0


STEP = Command(
    "step",
    "measure one SVT step beside the released code's",
    _declare_step,
    _run_step,
    ("python -m benchmarks step", "python -m benchmarks step --sizes tiny --rounds 8 --json"),
)
SCAN = Command(
    "scan",
    "measure VideoMamba's selective scan beside mambapy's and a loop",
    _declare_scan,
    _run_scan,
    ("python -m benchmarks scan", "python -m benchmarks scan --rounds 8 --json"),
)
CONTRAST = Command(
    "contrast",
    "measure InfoNCE and the sigmoid loss beside open_clip's",
    _declare_contrast,
    _run_contrast,
    (
        "python -m benchmarks contrast",
        "python -m benchmarks contrast --batches 4096 --rounds 8",
        "python -m benchmarks contrast --memory",
    ),
)
CLUSTERING = Command(
    "clustering",
    "measure k-means of embeddings on disk beside FAISS's in memory",
    _declare_clustering,
    _run_clustering,
    ("python -m benchmarks clustering", "python -m benchmarks clustering --rows 200000 --clusters 256 --folder runs"),
)
MODEL_STEPS = Command(
    "models",
    "measure ViViT, TimeSformer and X-CLIP beside Hugging Face's",
    _declare_models,
    _run_models,
    ("python -m benchmarks models", "python -m benchmarks models --sizes small --rounds 8 --json"),
)
GROWTH = Command(
    "growth",
    "measure how the cost of VideoMamba, VTN and TimeSformer grows with the number of frames",
    _declare_growth,
    _run_growth,
    ("python -m benchmarks growth", "python -m benchmarks growth --rounds 8 --json"),
)
