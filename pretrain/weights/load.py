"""Loads published weights strictly: missing, unused and misshapen tensors are errors unless allowed by pattern.

The family of a file, which determines how its tensors are renamed, is recognised by their names.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn

from trichord.core.errors import UserError
from trichord.core.registry import load
from trichord.pretrain.backbones.base import AudioBackbone, Backbone, Encoder, TextBackbone
from trichord.pretrain.backbones.registry import AUDIO_BACKBONES, BACKBONES
from trichord.pretrain.backbones.vtn.model import SIGN as _VTN
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine.config import InitFrom
from trichord.pretrain.objectives.base import Objective
from trichord.pretrain.weights.file import read_tensors
from trichord.pretrain.weights.naming import Family, renamed, shortened

_OF_BACKBONE, _OF_TEXT = "backbone.", "text."
# Batch counters, which older torchvision files lack; they are used only if momentum is None.
_OPTIONAL = ".num_batches_tracked"


_DINO = "backbone.blocks.0.attn.qkv.weight"
_RESNET = (("fc.{rest}", "classifier.{rest}"), ("{rest}", "backbone.{rest}"))

# Files whose weights fit several backbones; those of one backbone are defined in its package.
_GENERAL = (
    # Teachers of SVT and DINO, and SVT's release; they have the same names as in trichord.
    Family("SVT or DINO", _DINO, (), but_not=(_VTN,)),
    Family("trichord", "backbone.*", (), but_not=(_VTN, _DINO)),  # written by `trichord export`
    # Their students, saved from DistributedDataParallel.
    Family(
        "SVT or DINO, student",
        "module.backbone.blocks.0.attn.qkv.weight",
        (("module.backbone.{rest}", "backbone.{rest}"), ("module.head.{rest}", "head.{rest}")),
    ),
    # Image models of timm or DINO, or video models.
    Family("ViT", "blocks.0.attn.qkv.weight", (("head.{rest}", "classifier.{rest}"), ("{rest}", "backbone.{rest}"))),
    Family("ResNet of torchvision or timm", "layer1.0.conv1.weight", _RESNET),
)


@functools.cache
def families() -> tuple[Family, ...]:
    """Return all known families."""
    specs = (*BACKBONES.values(), *AUDIO_BACKBONES.values())
    places = dict.fromkeys(spec.file_names for spec in specs if spec.file_names)
    return (*_GENERAL, *(family for place in places for family in load(place)))


def recognise(names: Iterable[str]) -> Family | None:
    """Return the family of a file by its tensor names, None if unknown."""
    present = set(names)
    return next((family for family in families() if family.matches(present)), None)


@dataclass
class Fit:
    """The result of comparing a file with a network; names are those of the network."""

    family: str
    taken: dict[str, Tensor] = field(default_factory=dict)
    resized: list[str] = field(default_factory=list)
    misshapen: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Fit({self.lines()[0]})"

    def lines(self) -> list[str]:
        """Describe the result in lines of text."""
        lines = [f"{self.family} weights: {len(self.taken)} tensors loaded"]
        lines += [f"resized: {line}" for line in self.resized]
        lines += [f"left as initialised: {shortened(self.missing)}"] if self.missing else []
        lines += [f"left out: {shortened(self.unused)}"] if self.unused else []
        return lines


def load_initial_weights(run: RunConfig, objective: Objective) -> None:
    """Load the weights of files into a new objective's backbones."""
    if run.init_from:
        load_published(run.init_from, objective, Backbone)  # type: ignore[type-abstract]
    if run.audio_init_from:
        load_published(run.audio_init_from, objective, AudioBackbone)  # type: ignore[type-abstract]
    for text in [module for module in objective.modules() if isinstance(module, TextBackbone)]:
        text.load_own()
        if run.text_init_from:
            load_text(run.text_init_from, text)


def load_published(init: InitFrom, module: nn.Module, modality: type[Encoder] = Encoder) -> Fit:
    """Load the weights of a file into every network of a modality in a module, or into a single backbone."""
    return load_tensors(read_tensors(init.path, init.part), init, module, modality)


def load_text(init: InitFrom, text: TextBackbone) -> Fit:
    """Load the text encoder of a file with video and text, or with images and text."""
    tensors = read_tensors(init.path, init.part)
    family = recognised(tensors, init.path)
    offered = under_own_names(tensors, family, init.path)
    own = {
        _OF_BACKBONE + name.removeprefix(_OF_TEXT): tensor
        for name, tensor in offered.items()
        if name.startswith(_OF_TEXT)
    }
    if not own:
        raise UserError(f"{init.path} holds {family.name} weights without a text encoder; expected CLIP weights")
    return load_tensors(own, init, text, TextBackbone, family=Family(family.name, "backbone.*", ()))  # type: ignore[type-abstract]


def load_tensors(
    tensors: Mapping[str, Tensor],
    init: InitFrom,
    module: nn.Module,
    modality: type[Encoder] = Encoder,
    family: Family | None = None,
) -> Fit:
    """Load the same weights into every network in a module, so that student and teacher start equal.

    If `family` is None, it is recognised by the tensor names.
    """
    networks = networks_in(module, modality)
    if not networks:
        raise ValueError(f"{type(module).__name__} has no {modality.__name__}")
    found = compared(tensors, family or recognised(tensors, init.path), networks[0], init)
    _check(found, init)
    with torch.no_grad():
        for network in networks:
            places = network.state_dict(keep_vars=True)
            for name, tensor in found.taken.items():
                places[name].copy_(tensor)
    return found


def networks_in(module: nn.Module, modality: type[Encoder] = Encoder) -> list[nn.Module]:
    """Return the modules with a `backbone` of this modality; a single backbone is wrapped in such a module."""
    if isinstance(module, modality):
        return [nn.ModuleDict({"backbone": module})]
    return [network for network in module.modules() if isinstance(getattr(network, "backbone", None), modality)]


def compared(tensors: Mapping[str, Tensor], family: Family, network: nn.Module, init: InitFrom) -> Fit:
    """Match the tensors of a file with those of a network, and list what remains on either side."""
    backbone = network.get_submodule("backbone")
    assert isinstance(backbone, Encoder)
    offered = under_own_names(tensors, family, init.path)
    if init.time_from_space:
        offered = _with_time_from_space(offered, backbone.time_from_space)
    wanted = network.state_dict(keep_vars=True)
    with _converting(family, init.path):
        adapted = _adapted(offered, backbone)
    found = Fit(family.name)
    for name, place in wanted.items():
        if name not in adapted:
            found.missing += [] if name.endswith(_OPTIONAL) else [name]
            continue
        given = offered.get(name, adapted[name])
        with _converting(family, init.path):
            made = _resized(backbone, name, adapted[name], place)
        if given.is_floating_point() != place.is_floating_point():
            kinds = [str(tensor.dtype).removeprefix("torch.") for tensor in (given, place)]
            found.misshapen[name] = f"{name}: {kinds[0]} in the file, {kinds[1]} in the network"
            continue
        if made is None:
            found.misshapen[name] = f"{name}: {_shape(given)} in the file, {_shape(place)} in the network"
            continue
        found.taken[name] = made
        if made is not given:
            found.resized.append(f"{name} from {_shape(given)} to {_shape(place)}")
    found.unused = [name for name in adapted if name not in wanted]
    return found


def under_own_names(tensors: Mapping[str, Tensor], family: Family, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file with the names and layouts of trichord."""
    with _converting(family, path):
        return {renamed(name, family.table): tensor for name, tensor in family.prepare(tensors).items()}


@contextmanager
def _converting(family: Family, path: Path) -> Iterator[None]:
    """Turn what torch raises when a tensor cannot be rearranged, as its shape is not its family's, into UserError."""
    try:
        yield
    except (RuntimeError, IndexError, ValueError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise UserError(
            f"{path} has tensors with the names of {family.name} weights, but not with their shapes ({reason}). "
            "Next: download it again"
        ) from error


def _adapted(offered: dict[str, Tensor], backbone: Encoder) -> dict[str, Tensor]:
    """Convert the tensors of an image model for the backbone."""
    within, others = dict[str, Tensor](), dict[str, Tensor]()
    for name, tensor in offered.items():
        (within if name.startswith(_OF_BACKBONE) else others)[name.removeprefix(_OF_BACKBONE)] = tensor
    return others | {_OF_BACKBONE + name: tensor for name, tensor in backbone.of_images(within).items()}


def _resized(backbone: Encoder, name: str, tensor: Tensor, place: Tensor) -> Tensor | None:
    """Resize a tensor to the shape of its place if necessary; None if that is not possible."""
    within = name.removeprefix(_OF_BACKBONE)
    if tensor.shape == place.shape or within == name:
        return tensor if tensor.shape == place.shape else None
    made = backbone.resized(within, tensor, place)
    return made if made is not None and made.shape == place.shape else None


def recognised(tensors: Mapping[str, Tensor], path: Path) -> Family:
    """Return the family of a file by its tensor names; raise if it is unknown."""
    family = recognise(tensors)
    if family is None:
        known = ", ".join(f"{each.name} ({each.sign})" for each in families())
        raise UserError(
            f"{path} is not of a known family: its tensors are named {shortened(tensors)}; expected one of {known}"
        )
    return family


def _with_time_from_space(offered: Mapping[str, Tensor], time_from_space: Mapping[str, str]) -> dict[str, Tensor]:
    """Copy the weights of spatial attention to temporal attention where the file has none for it."""
    copies = {
        name.replace(space, time): tensor
        for name, tensor in offered.items()
        for space, time in time_from_space.items()
        if space in name
    }
    return copies | dict(offered)


def _check(found: Fit, init: InitFrom) -> None:
    """Raise for tensors that no pattern allows; one of another shape counts as both missing and unused."""
    missing = _not_allowed([*found.missing, *found.misshapen], init.allow_missing)
    unused = _not_allowed([*found.unused, *found.misshapen], init.allow_unused)
    if not missing and not unused:
        found.missing += found.misshapen
        found.unused += found.misshapen
        return
    lines = [f"{init.path} holds {found.family} weights that do not fit this network:"]
    shapes = [found.misshapen[name] for name in found.misshapen if name in missing or name in unused]
    for title, names in (
        ("not in the file", [name for name in missing if name not in found.misshapen]),
        ("not in the network", [name for name in unused if name not in found.misshapen]),
        ("of another shape", shapes),
    ):
        lines += [f"  {len(names)} {title}: {shortened(names)}"] if names else []
    kinds = [("missing", missing), ("unused", unused)]
    allowed = " and ".join(f"init_from.allow_{kind}" for kind, names in kinds if names)
    lines.append(
        f"Choose the backbone that the weights were made for, or allow these names by pattern: {allowed}='[\"...\"]'"
    )
    raise UserError("\n".join(lines))


def _not_allowed(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    return [name for name in names if not any(fnmatchcase(name, pattern) for pattern in patterns)]


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
