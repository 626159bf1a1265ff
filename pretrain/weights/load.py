"""Starts a network from published weights, strictly: what is missing, unused or of other shape is named, or allowed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn

from trichord.core.errors import UserError
from trichord.pretrain.backbones.base import Encoder, TextBackbone
from trichord.pretrain.engine.config import InitFrom
from trichord.pretrain.weights.families import families, recognise
from trichord.pretrain.weights.file import read_tensors
from trichord.pretrain.weights.naming import Family, renamed

_NAMES_SHOWN = 12
_OF_BACKBONE, _OF_TEXT = "backbone.", "text."
# Counts of batches, which older files of torchvision lack; nothing is made of them but where momentum is None.
_NEVER_MISSED = ".num_batches_tracked"


@dataclass
class Fit:
    """What became of the tensors of a file and of a network; names are those that the network has."""

    family: str
    taken: dict[str, Tensor] = field(default_factory=dict)
    resized: list[str] = field(default_factory=list)
    misshapen: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Say in plain words what happened."""
        said = [f"{self.family} weights: {len(self.taken)} tensors taken"]
        said += [f"resized: {line}" for line in self.resized]
        said += [f"left as initialised: {shortened(self.missing)}"] if self.missing else []
        said += [f"left out: {shortened(self.unused)}"] if self.unused else []
        return said


def load_published(init: InitFrom, module: nn.Module, sense: type[Encoder] = Encoder) -> Fit:
    """Give every network of a sense in a module, or a backbone by itself, the weights of a file."""
    return load_tensors(read_tensors(init.path, init.part), init, module, sense)


def load_text(init: InitFrom, text: TextBackbone) -> Fit:
    """Give a text encoder what a file of video and text, or of images and text, has of one."""
    tensors = read_tensors(init.path, init.part)
    family = recognised(tensors, init.path)
    offered = {renamed(name, family.table): tensor for name, tensor in family.prepare(tensors).items()}
    own = {
        _OF_BACKBONE + name.removeprefix(_OF_TEXT): tensor
        for name, tensor in offered.items()
        if name.startswith(_OF_TEXT)
    }
    if not own:
        raise UserError(f"{init.path} holds {family.name} weights, among them none of a text encoder; take a CLIP's")
    return load_tensors(own, init, text, TextBackbone, family=Family(family.name, "backbone.*", ()))  # type: ignore[type-abstract]


def load_tensors(
    tensors: Mapping[str, Tensor],
    init: InitFrom,
    module: nn.Module,
    sense: type[Encoder] = Encoder,
    family: Family | None = None,
) -> Fit:
    """Give every network in a module the same weights: student and teacher set out from one point.

    The family is told by the tensors' names where it is not known.
    """
    networks = networks_in(module, sense)
    if not networks:
        raise ValueError(f"{type(module).__name__} holds no {sense.__name__}")
    found = compared(tensors, family or recognised(tensors, init.path), networks[0], init)
    _check(found, init)
    with torch.no_grad():
        for network in networks:
            places = network.state_dict(keep_vars=True)
            for name, tensor in found.taken.items():
                places[name].copy_(tensor)
    return found


def networks_in(module: nn.Module, sense: type[Encoder] = Encoder) -> list[nn.Module]:
    """Find what has a `backbone` of this sense; one that stands by itself is put where it would be."""
    if isinstance(module, sense):
        return [nn.ModuleDict({"backbone": module})]
    return [network for network in module.modules() if isinstance(getattr(network, "backbone", None), sense)]


def compared(tensors: Mapping[str, Tensor], family: Family, network: nn.Module, init: InitFrom) -> Fit:
    """Find a tensor for each place of a network, and say what is left over on either side."""
    backbone = network.get_submodule("backbone")
    assert isinstance(backbone, Encoder)
    offered = {renamed(name, family.table): tensor for name, tensor in family.prepare(tensors).items()}
    if init.time_from_space:
        offered = _with_time_from_space(offered, backbone.time_from_space)
    wanted = network.state_dict(keep_vars=True)
    begun = _begun(offered, backbone)
    found = Fit(family.name)
    for name, place in wanted.items():
        if name not in begun:
            found.missing += [] if name.endswith(_NEVER_MISSED) else [name]
            continue
        given, made = offered.get(name, begun[name]), _resized(backbone, name, begun[name], place)
        if made is None:
            found.misshapen[name] = f"{name}: {_shape(given)} in the file, {_shape(place)} in the network"
            continue
        found.taken[name] = made
        if made is not given:
            found.resized.append(f"{name} from {_shape(given)} to {_shape(place)}")
    found.unused = [name for name in begun if name not in wanted]
    return found


def _begun(offered: dict[str, Tensor], backbone: Encoder) -> dict[str, Tensor]:
    """Let the backbone make what it needs of a model of images."""
    within, others = dict[str, Tensor](), dict[str, Tensor]()
    for name, tensor in offered.items():
        (within if name.startswith(_OF_BACKBONE) else others)[name.removeprefix(_OF_BACKBONE)] = tensor
    return others | {_OF_BACKBONE + name: tensor for name, tensor in backbone.of_images(within).items()}


def _resized(backbone: Encoder, name: str, tensor: Tensor, place: Tensor) -> Tensor | None:
    """Make a tensor fit its place, if it does not yet and can."""
    within = name.removeprefix(_OF_BACKBONE)
    if tensor.shape == place.shape or within == name:
        return tensor if tensor.shape == place.shape else None
    made = backbone.resized(within, tensor, place)
    return made if made is not None and made.shape == place.shape else None


def recognised(tensors: Mapping[str, Tensor], path: Path) -> Family:
    """Tell the family of a file's tensors, or stop with what there is to be told."""
    family = recognise(tensors)
    if family is None:
        known = ", ".join(f"{each.name} ({each.sign})" for each in families())
        raise UserError(
            f"{path} is of no known family: its tensors are called {shortened(tensors)}; expected one of {known}"
        )
    return family


def _with_time_from_space(offered: Mapping[str, Tensor], time_from_space: Mapping[str, str]) -> dict[str, Tensor]:
    """Let attention in time begin as attention in space, where a model of images has nothing for it."""
    copies = {
        name.replace(space, time): tensor
        for name, tensor in offered.items()
        for space, time in time_from_space.items()
        if space in name
    }
    return copies | dict(offered)


def _check(found: Fit, init: InitFrom) -> None:
    """Stop at what no pattern allows; a tensor of another shape is missing here and unused there."""
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
    ways = [("missing", missing), ("unused", unused)]
    allowed = " and ".join(f"init_from.allow_{way}" for way, names in ways if names)
    lines.append(f"Choose the backbone that they were made for, or allow them by pattern: {allowed}='[\"...\"]'")
    raise UserError("\n".join(lines))


def _not_allowed(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    return [name for name in names if not any(fnmatchcase(name, pattern) for pattern in patterns)]


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def shortened(names: Iterable[str]) -> str:
    """List names, not all of very many."""
    listed = list(names)
    more = f" and {len(listed) - _NAMES_SHOWN} more" if len(listed) > _NAMES_SHOWN else ""
    return ", ".join(listed[:_NAMES_SHOWN]) + more
