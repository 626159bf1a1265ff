"""`python -m benchmarks search`: the command."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from trichord.core.command import Command, add_json, at_least
from trichord.core.console import pulse, show_figures
from trichord.core.errors import UserError

_OF_OURS = (
    *("budget_mib", "build_mib", "build_mib_with_maps", "build_threads", "disk_bytes_per_vector"),
    *("open_and_first_s", "single_p50_ms"),
)


def _declare(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--rows", type=at_least(1000), default=1_000_000, metavar="N", help="number of vectors in the index"
    )
    parser.add_argument("--dim", type=at_least(8), default=512, metavar="N", help="number of features of a vector")
    parser.add_argument(
        "--spread",
        type=float,
        default=0.7,
        metavar="S",
        help="spread of the clusters, relative to the length of their centres: larger is harder",
    )
    parser.add_argument(
        "--queries",
        type=at_least(20),
        default=2000,
        metavar="N",
        help="number of queries of each kind; half of them are measured",
    )
    parser.add_argument("--rounds", type=at_least(1), default=3, metavar="N", help="number of timed rounds")
    parser.add_argument("--memory-gb", type=float, default=4.0, metavar="G", help="memory limit of the build")
    parser.add_argument(
        "--no-hnsw", action="store_true", help="leave out HNSW32, which takes long to build from a million vectors"
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep vectors and graphs here for the next run")
    add_json(parser)


def _run(arguments: Namespace) -> int:
    from benchmarks.search.run import Effort, run_search_bench
    from benchmarks.search.synthetic import SearchCase

    if not arguments.memory_gb > 0:
        raise UserError(f"--memory-gb {arguments.memory_gb}: expected a number above 0")
    if not arguments.spread >= 0:
        raise UserError(f"--spread {arguments.spread}: expected a number from 0 on")
    case = SearchCase(rows=arguments.rows, dim=arguments.dim, spread=arguments.spread)
    names = ("queries", "rounds", "memory_gb", "keep")
    effort = Effort(with_hnsw=not arguments.no_hnsw, **{name: getattr(arguments, name) for name in names})
    with pulse("search steps") as beat:
        rows = run_search_bench(case, effort, beat)
    title = f"search of {case.rows:,} x {case.dim}, one thread"
    if arguments.json:
        show_figures(title, rows, as_json=True)
        return 0
    show_figures(title, [{name: row[name] for name in row if name not in _OF_OURS} for row in rows], as_json=False)
    ours = next(row for row in rows if row.keys() >= set(_OF_OURS))
    show_figures("ours, built and loaded", [{name: ours[name] for name in _OF_OURS}], as_json=False)
    return 0


SEARCH = Command(
    "search",
    "measure search beside FAISS's flat index and HNSW",
    _declare,
    _run,
    ("python -m benchmarks search", "python -m benchmarks search --rows 100000 --dim 256 --no-hnsw --json"),
)
