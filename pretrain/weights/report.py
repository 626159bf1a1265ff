"""Reports the family of a weight file and how it fits each published size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from trichord.pretrain.backbones.counting import on_meta
from trichord.pretrain.backbones.registry import published_sizes
from trichord.pretrain.engine.config import InitFrom
from trichord.pretrain.weights.load import Fit, compared, recognised

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
    def amiss(self) -> int:
        """The number of tensors that prevent a strict load."""
        return len(self.missing) + len(self.unused) + len(self.misshapen)

    @property
    def begins(self) -> bool:
        """Whether all tensors are used but some weights are missing, for example for an image model."""
        return bool(self.taken and self.missing) and not (self.unused or self.misshapen)

    @property
    def verdict(self) -> str:
        """The result in one or two words."""
        if self.amiss:
            return "as init" if self.begins else "no"
        return "once resized" if self.resized else "strictly"


@dataclass(frozen=True)
class Report:
    """The description of a weight file."""

    family: str
    tensors: int
    parameters: int
    beside: list[str]  # tensors that are not part of the backbone, with trichord's names
    fits: list[SizeFit]  # best first


def report(tensors: Mapping[str, Tensor], path: Path) -> Report:
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
    fits.sort(key=lambda each: (each.amiss, len(each.resized)))
    beside = sorted(name for name in firsts[nearest].unused if not name.startswith(_OF_BACKBONE))
    return Report(family.name, len(tensors), sum(tensor.numel() for tensor in tensors.values()), beside, fits)


def _of_backbone(preset: str, fit: Fit) -> SizeFit:
    unused = [name for name in fit.unused if name.startswith(_OF_BACKBONE)]
    return SizeFit(preset, len(fit.taken), fit.resized, fit.missing, unused, list(fit.misshapen.values()))
