"""`python -m benchmarks contrast`: the command."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from trichord.core.command import Command, add_json, at_least
from trichord.core.console import pulse, show_figures


def _declare(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--batches",
        nargs="+",
        type=at_least(2),
        metavar="N",
        help="pairs in a batch (default: 1024 4096 16384; the last takes open_clip 4 GiB and some minutes)",
    )
    parser.add_argument(
        "--rounds", type=at_least(1), default=2, metavar="N", help="how often each takes a turn that counts"
    )
    parser.add_argument(
        "--memory", action="store_true", help="measure InfoNCE's peaks of memory up to 65536 pairs instead"
    )
    add_json(parser)


def _run(arguments: Namespace) -> int:
    from benchmarks.training.contrast import BATCHES, GROWING_BATCHES, run_contrast_bench, run_memory_bench
    from benchmarks.training.contrast_contenders import ContrastCase

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


CONTRAST = Command(
    "contrast",
    "measure InfoNCE and the sigmoid loss beside open_clip's",
    _declare,
    _run,
    (
        "python -m benchmarks contrast",
        "python -m benchmarks contrast --batches 4096 --rounds 8",
        "python -m benchmarks contrast --memory",
    ),
)
