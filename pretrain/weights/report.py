"""Reports the family of a weight file and how it fits each published size."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from trichord.core.console import show_figures
from trichord.pretrain.backbones.counting import on_meta
from trichord.pretrain.backbones.registry import published_sizes
from trichord.pretrain.backbones.spec import Size
from trichord.pretrain.engine.config import InitFrom
from trichord.pretrain.weights.file import read_tensors
from trichord.pretrain.weights.load import Fit, compared, recognised
from trichord.pretrain.weights.naming import shortened

_OF_BACKBONE = "backbone."


@dataclass(frozen=True)
class SizeFit:
    """How the backbone in a file fits one published size."""

    preset: str
    taken: int
    resized: list[str]
    missing: list[str]
    unused: list[str]
    misshapen: list[str]

    @property
    def misfits(self) -> int:
        """The number of tensors that prevent a strict load."""
        return len(self.missing) + len(self.unused) + len(self.misshapen)

    @property
    def suits_init(self) -> bool:
        """Whether all tensors are used but some weights are missing, for example for an image model."""
        return bool(self.taken and self.missing) and not (self.unused or self.misshapen)

    @property
    def verdict(self) -> str:
        """The result in one or two words."""
        if self.misfits:
            return "as init" if self.suits_init else "no"
        return "once resized" if self.resized else "strictly"


@dataclass(frozen=True)
class WeightFileReport:
    """The description of a weight file."""

    family: str
    tensors: int
    parameters: int
    outside_backbone: list[str]  # tensors that are not part of the backbone, with trichord's names
    fits: list[SizeFit]  # best first


def report(tensors: Mapping[str, Tensor], path: Path) -> WeightFileReport:
    """Compare the tensors of a file with the published sizes, by names and shapes only."""
    family = recognised(tensors, path)
    shapes = {name: tensor.to("meta") for name, tensor in tensors.items()}

    sizes = published_sizes()

    def fit(size: str) -> Fit:
        network = nn.ModuleDict({"backbone": on_meta(sizes[size])})
        return compared(shapes, family, network, InitFrom(path=path))

    # Names identify the kind of backbone for all sizes: those kinds that use all tensors, and the nearest.
    of_kind = {size.spec.kind: name for name, size in reversed(sizes.items())}
    firsts = {kind: fit(name) for kind, name in of_kind.items()}
    nearest = min(firsts, key=lambda kind: len(firsts[kind].missing) + len(firsts[kind].unused))
    kinds = {kind for kind, first in firsts.items() if not _of_backbone(kind, first).unused} | {nearest}
    fits = [_of_backbone(name, fit(name)) for name, size in sizes.items() if size.spec.kind in kinds]
    fits.sort(key=lambda each: (each.misfits, len(each.resized)))
    outside_backbone = sorted(name for name in firsts[nearest].unused if not name.startswith(_OF_BACKBONE))
    return WeightFileReport(
        family.name, len(tensors), sum(tensor.numel() for tensor in tensors.values()), outside_backbone, fits
    )


def _of_backbone(preset: str, fit: Fit) -> SizeFit:
    unused = [name for name in fit.unused if name.startswith(_OF_BACKBONE)]
    return SizeFit(preset, len(fit.taken), fit.resized, fit.missing, unused, list(fit.misshapen.values()))


def run_inspect(arguments: Namespace) -> int:
    """Print the family of a weight file, the sizes it fits and what does not fit; return 1 if no size fits."""
    found = report(read_tensors(arguments.file, arguments.part), arguments.file)
    nearest = found.fits[0]
    listed = [fit for fit in found.fits if not fit.misfits or fit.suits_init] or [nearest]
    title = f"{arguments.file}: {found.family}, {found.tensors:,} tensors, {found.parameters:,} parameters"
    show_figures(title, [_row(fit, arguments.json) for fit in listed], arguments.json)
    if not arguments.json:
        _print_details(found, nearest, arguments)
    return 1 if nearest.misfits else 0


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


def _print_details(found: WeightFileReport, nearest: SizeFit, arguments: Namespace) -> None:
    for what, names in (
        (f"{nearest.preset}, resized", nearest.resized),
        (f"{nearest.preset}, not in the file", nearest.missing),
        (f"{nearest.preset}, not in the network", nearest.unused),
        (f"{nearest.preset}, of another shape", nearest.misshapen),
        ("outside the backbone", found.outside_backbone),
    ):
        if names:
            print(f"{what}: {shortened(names)}")
    if not nearest.misfits:
        print(f"Next: {' '.join(_settings(published_sizes()[nearest.preset], found.outside_backbone, arguments))}")


def _settings(size: Size, outside_backbone: Sequence[str], arguments: Namespace) -> list[str]:
    """Return the settings of a recipe that starts from this file."""
    init_from = size.spec.init_setting
    settings = [*size.settings, f"{init_from}.path={arguments.file}"]
    settings += [f"{init_from}.part={arguments.part}"] if arguments.part else []
    patterns = [f"{name}.*" for name in dict.fromkeys(name.partition(".")[0] for name in outside_backbone)]
    return settings + ([f"{init_from}.allow_unused='{json.dumps(patterns)}'"] if patterns else [])
