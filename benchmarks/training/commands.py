"""The cost of a training step and of a selective scan compared with other implementations."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from trichord.core.command import Command, add_json, at_least
from trichord.core.console import pulse, show_figures


def _declare_step(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--sizes",
        nargs="+",
        choices=("tiny", "small", "base"),
        default=["tiny", "small"],
        help="of the network, ViT's (default: tiny small; base takes many minutes and 16 GiB for each contender)",
    )
    parser.add_argument(
        "--rounds", type=at_least(1), default=2, metavar="N", help="how often each takes a step that counts"
    )
    parser.add_argument(
        "--all-views", action="store_true", help="vary the views' frames for the larger networks as well"
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


STEP = Command(
    "step",
    "measure one SVT step beside the released code's",
    _declare_step,
    _run_step,
    ("python -m benchmarks step", "python -m benchmarks step --sizes tiny --rounds 8 --json"),
)


def _declare_scan(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--rounds", type=at_least(1), default=3, metavar="N", help="how often each scans; the least time counts"
    )
    add_json(parser)


def _run_scan(arguments: Namespace) -> int:
    from benchmarks.training.scan import CASES, run_scan_bench
    from benchmarks.training.scan_contenders import MAMBAPY, contenders

    with pulse("scans") as beat:
        rows = run_scan_bench(CASES, arguments.rounds, beat)
    left_out = "" if MAMBAPY in contenders() else "; mambapy is not installed (pip install trichord[bench])"
    show_figures(f"selective scan, forward and backward: CPU ms, peak MiB{left_out}", rows, arguments.json)
    return 0


SCAN = Command(
    "scan",
    "measure VideoMamba's selective scan beside mambapy's and a loop",
    _declare_scan,
    _run_scan,
    ("python -m benchmarks scan", "python -m benchmarks scan --rounds 8 --json"),
)
