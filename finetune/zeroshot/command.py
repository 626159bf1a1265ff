"""The arguments of `trichord zeroshot`; imports no torch."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trichord.core.command import add_json, at_least, share
from trichord.finetune.zeroshot.prompts import PROMPTS, templates_of

_ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


def declare(parser: ArgumentParser) -> None:
    """Declare the arguments of `trichord zeroshot`."""
    parser.add_argument("videos", nargs="*", type=Path, metavar="CLIP", help="video files to classify by --labels")
    parser.add_argument("--labels", metavar="TEXT,TEXT", help="candidate labels, or a file with one on each line")
    parser.add_argument(
        "--data", nargs="+", default=[], metavar="SHARDS", help="shard sets to test on, such as three splits"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="RUN_OR_FILE",
        help="run or weight file of the model (default: the newest video_text run below runs/)",
    )
    parser.add_argument("--part", metavar="NAME", help="part to load from a file that holds several")
    parser.add_argument(
        "--backbone",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="settings not implied by a file's shapes, such as activation=gelu for most open_clip models",
    )
    words = parser.add_argument_group("words and views")
    words.add_argument(
        "--prompts",
        type=_prompts,
        default="bare",
        metavar="SET",
        help=f"{', '.join(PROMPTS)}, or a text with {{}} for the class name",
    )
    words.add_argument(
        "--ensemble", choices=("embedding", "probability"), default="embedding", help="quantity averaged over prompts"
    )
    words.add_argument(
        "--names-as",
        choices=("words", "given"),
        default="words",
        help="split names such as ApplyEyeMakeup, or keep them as given",
    )
    words.add_argument(
        "--views",
        type=_pair((1, 3), "clips and crops, 1 or 3, such as 4x3"),
        default="1x1",
        metavar="NxM",
        help="number of clips, and of crops of each clip",
    )
    words.add_argument(
        "--average", choices=("probability", "logit"), default="probability", help="quantity averaged over views"
    )
    words.add_argument("--frames", type=at_least(1), metavar="N", help="frames per clip (default: as in training)")
    _declare_test(parser.add_argument_group("with --data"))
    add_json(parser)


def _declare_test(tests: Any) -> None:
    tests.add_argument(
        "--classes",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="lists of class names, one on each line; the test is repeated among the classes of each list",
    )
    tests.add_argument(
        "--draws",
        type=_pair(None, "draws and classes of each, such as 3x160"),
        metavar="DRAWSxCLASSES",
        help="number of random draws, and of classes in each; the test is repeated for each draw",
    )
    tests.add_argument(
        "--new-to",
        type=Path,
        metavar="SHARDS_OR_FILE",
        help="exclude the classes of this set, on which the model was trained",
    )
    tests.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="random seed of --draws")
    tests.add_argument("--wise-from", type=Path, metavar="RUN_OR_FILE", help="weights before fine-tuning: WiSE-FT")
    tests.add_argument(
        "--alphas",
        nargs="+",
        type=share,
        default=_ALPHAS,
        metavar="ALPHA",
        help="positions between --wise-from (0) and --weights (1)",
    )
    tests.add_argument("--batch-size", type=at_least(1), default=8, metavar="N", help="clips per batch on each rank")
    tests.add_argument("--workers", type=at_least(0), default=0, metavar="N", help="reader processes per rank")
    tests.add_argument("--cache", type=Path, metavar="DIR", help="cache folder for remote shards")
    tests.add_argument("--name", metavar="NAME", help="file name of reports (default: prompts, views and set folders)")
    tests.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for evaluations/ (default: the run; none for a file)",
    )


def _prompts(text: str) -> str:
    try:
        templates_of(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error
    return text


def _pair(allowed: tuple[int, ...] | None, expected: str) -> Callable[[str], tuple[int, int]]:
    """Return an argument type for two numbers with an x between them."""

    def read(text: str) -> tuple[int, int]:
        found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
        if found is None or (allowed and int(found[2]) not in allowed):
            raise ArgumentTypeError(f"found {text!r}, expected {expected}")
        return int(found[1]), int(found[2])

    return read
