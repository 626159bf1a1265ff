"""`trichord weights inspect`: the family of a weight file, the sizes it fits, and differences to the nearest."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trichord.core.command import Command, add_json
from trichord.core.console import show_figures

if TYPE_CHECKING:
    from trichord.pretrain.backbones.spec import Size
    from trichord.pretrain.weights.report import Report, SizeFit

SUMMARY = "inspect weight files"


def _declare(parser: ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="safetensors, .pth, .pyth, .pt, .bin, or a folder")
    parser.add_argument("--part", metavar="NAME", help="part of a file with several parts, such as student")
    add_json(parser)


def _run(arguments: Namespace) -> int:
    from trichord.pretrain.weights.file import read_tensors
    from trichord.pretrain.weights.report import report

    found = report(read_tensors(arguments.file, arguments.part), arguments.file)
    nearest = found.fits[0]
    shown = [fit for fit in found.fits if not fit.amiss or fit.begins] or [nearest]
    title = f"{arguments.file}: {found.family}, {found.tensors:,} tensors, {found.parameters:,} parameters"
    show_figures(title, [_row(fit, arguments.json) for fit in shown], arguments.json)
    if not arguments.json:
        _print_details(found, nearest, arguments)
    return 1 if nearest.amiss else 0


def _row(fit: SizeFit, whole: bool) -> dict[str, object]:
    """Return the row of a size; with lists of names if `whole` (for JSON), otherwise with their numbers."""
    names = {
        "resized": fit.resized,
        "missing": fit.missing,
        "unused": fit.unused,
        "of another shape": fit.misshapen,
    }
    listed = {what: each if whole else len(each) for what, each in names.items()}
    return {"size": fit.preset, "fits": fit.verdict, "taken": fit.taken} | listed


def _print_details(found: Report, nearest: SizeFit, arguments: Namespace) -> None:
    from trichord.pretrain.backbones.registry import published_sizes
    from trichord.pretrain.weights.load import shortened

    for what, names in (
        (f"{nearest.preset}, resized", nearest.resized),
        (f"{nearest.preset}, not in the file", nearest.missing),
        (f"{nearest.preset}, not in the network", nearest.unused),
        (f"{nearest.preset}, of another shape", nearest.misshapen),
        ("outside the backbone", found.beside),
    ):
        if names:
            print(f"{what}: {shortened(names)}")
    if not nearest.amiss:
        print(f"Next: {' '.join(_settings(published_sizes()[nearest.preset], found.beside, arguments))}")


def _settings(size: Size, beside: Sequence[str], arguments: Namespace) -> list[str]:
    """Return the settings of a recipe that starts from this file."""
    init_from = size.spec.init_setting
    settings = [*size.settings, f"{init_from}.path={arguments.file}"]
    settings += [f"{init_from}.part={arguments.part}"] if arguments.part else []
    patterns = [f"{name}.*" for name in dict.fromkeys(name.partition(".")[0] for name in beside)]
    return settings + ([f"{init_from}.allow_unused='{json.dumps(patterns)}'"] if patterns else [])


INSPECT = Command(
    "inspect",
    "show the family of a weight file, the sizes it fits and what does not fit",
    _declare,
    _run,
    ("trichord weights inspect kinetics400_vitb_ssl.pth", "trichord weights inspect model.safetensors --json"),
)
