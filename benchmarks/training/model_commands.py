"""`python -m benchmarks models` and `python -m benchmarks growth`: the commands."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from trichord.core.command import Command, add_json, at_least
from trichord.core.console import pulse, show_figures


def _declare_models(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--sizes",
        nargs="+",
        choices=("small", "base"),
        default=["small", "base"],
        help="of the networks, ViT's (default: small base; base takes some minutes and 8 GiB)",
    )
    parser.add_argument(
        "--rounds", type=at_least(1), default=3, metavar="N", help="how often each takes a step that counts"
    )
    add_json(parser)


def _run_models(arguments: Namespace) -> int:
    from benchmarks.training.models import CONTESTS, measurable, run_model_bench

    chosen = {
        name: contest for name, contest in CONTESTS.items() if any(f", {size}" in name for size in arguments.sizes)
    }
    able = measurable(chosen)
    left_out = "; bf16 is left out, for this processor has no arithmetic for it" if len(able) < len(chosen) else ""
    with pulse("steps") as beat:
        rows = run_model_bench(able, arguments.rounds, beat)
    show_figures(f"backbones, forward and backward: CPU seconds, peak MiB{left_out}", rows, arguments.json)
    return 0


def _declare_growth(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--rounds", type=at_least(1), default=5, metavar="N", help="how often each is measured; each gives an exponent"
    )
    add_json(parser)


def _run_growth(arguments: Namespace) -> int:
    from benchmarks.training.growth import GROWTHS, run_growth_bench

    with pulse("networks") as beat:
        rows = run_growth_bench(GROWTHS, arguments.rounds, beat=beat)
    show_figures("cost by frames, forward and backward: CPU ms, fitted exponent", rows, arguments.json)
    return 0


MODEL_STEPS = Command(
    "models",
    "measure ViViT, TimeSformer and X-CLIP beside Hugging Face's",
    _declare_models,
    _run_models,
    ("python -m benchmarks models", "python -m benchmarks models --sizes small --rounds 8 --json"),
)
GROWTH = Command(
    "growth",
    "measure how VideoMamba's, VTN's and TimeSformer's cost grows with frames",
    _declare_growth,
    _run_growth,
    ("python -m benchmarks growth", "python -m benchmarks growth --rounds 8 --json"),
)
