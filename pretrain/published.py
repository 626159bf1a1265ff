"""Starts a network from published weights, strictly: what is missing, unused or of other shape is named, or allowed.

Legend: N places and T frames of tables of positions, D features.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import isqrt

import torch
from torch import Tensor, nn

from pretrain.backbone import Backbone
from pretrain.engine.config import InitFrom
from pretrain.layers.positions import positions_in_space, positions_in_time
from pretrain.published_file import read_tensors
from pretrain.published_names import FAMILIES, recognise, renamed
from shards.errors import UserError

_NAMES_SHOWN = 12
_COPIES_IN_TIME = {".norm1.": ".temporal_norm1.", ".attn.": ".temporal_attn."}


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
        said += [f"positions resized: {line}" for line in self.resized]
        said += [f"left as initialised: {_shortened(self.missing)}"] if self.missing else []
        said += [f"left out: {_shortened(self.unused)}"] if self.unused else []
        return said


def load_published(init: InitFrom, module: nn.Module) -> Fit:
    """Give every network in a module, or a backbone by itself, the weights of a file."""
    return load_tensors(read_tensors(init.path, init.part), init, module)


def load_tensors(tensors: Mapping[str, Tensor], init: InitFrom, module: nn.Module) -> Fit:
    """Give every network in a module the same weights: student and teacher set out from one point."""
    networks = networks_in(module)
    if not networks:
        raise ValueError(f"{type(module).__name__} holds no backbone")
    places = [network.state_dict(keep_vars=True) for network in networks]
    found = fit(tensors, init, places[0])
    with torch.no_grad():
        for place in places:
            for name, tensor in found.taken.items():
                place[name].copy_(tensor)
    return found


def networks_in(module: nn.Module) -> list[nn.Module]:
    """Find what has a `backbone`; a backbone that stands by itself is put where it would be."""
    if isinstance(module, Backbone):
        return [nn.ModuleDict({"backbone": module})]
    return [network for network in module.modules() if isinstance(getattr(network, "backbone", None), Backbone)]


def fit(tensors: Mapping[str, Tensor], init: InitFrom, wanted: Mapping[str, Tensor]) -> Fit:
    """Find a tensor for each place of a network, or stop with the names of those that do not fit."""
    family = recognise(tensors)
    if family is None:
        known = ", ".join(f"{each.name} ({each.sign})" for each in FAMILIES)
        raise UserError(
            f"{init.path} is of no known family: its tensors are called {_shortened(tensors)}; expected one of {known}"
        )
    offered = {renamed(name, family.table): tensor for name, tensor in tensors.items()}
    if init.time_from_space:
        offered = _with_time_from_space(offered)
    found = Fit(family.name)
    for name, place in wanted.items():
        if name not in offered:
            found.missing.append(name)
            continue
        tensor = _resized(name, offered[name], place)
        if tensor.shape != place.shape:
            found.misshapen[name] = f"{name}: {_shape(offered[name])} in the file, {_shape(place)} in the network"
            continue
        found.taken[name] = tensor
        if tensor is not offered[name]:
            found.resized.append(f"{name} from {_shape(offered[name])} to {_shape(place)}")
    found.unused = [name for name in offered if name not in wanted]
    _check(found, init)
    return found


def _with_time_from_space(offered: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Let attention in time begin as attention in space, where a model of images has nothing for it."""
    copies = {
        name.replace(space, time): tensor
        for name, tensor in offered.items()
        for space, time in _COPIES_IN_TIME.items()
        if space in name
    }
    return copies | dict(offered)


def _resized(name: str, tensor: Tensor, place: Tensor) -> Tensor:
    """Fit a table of positions to another size as the backbone would at run time; leave all else alone."""
    if tensor.ndim != 3 or tensor.shape == place.shape or tensor.shape[::2] != place.shape[::2]:
        return tensor
    if name == "backbone.time_embed":
        return positions_in_time(tensor, place.shape[1])
    sides = [isqrt(table.shape[1] - 1) for table in (tensor, place)]
    if name == "backbone.pos_embed" and [side**2 + 1 for side in sides] == [tensor.shape[1], place.shape[1]]:
        class_11D, table_1ND = torch.split(tensor, [1, tensor.shape[1] - 1], dim=1)
        return torch.cat((class_11D, positions_in_space(table_1ND, sides[1], sides[1]).flatten(1, 2)), dim=1)
    return tensor


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
        lines += [f"  {len(names)} {title}: {_shortened(names)}"] if names else []
    ways = [("missing", missing), ("unused", unused)]
    allowed = " and ".join(f"init_from.allow_{way}" for way, names in ways if names)
    lines.append(f"Choose the backbone that they were made for, or allow them by pattern: {allowed}='[\"...\"]'")
    raise UserError("\n".join(lines))


def _not_allowed(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    return [name for name in names if not any(fnmatchcase(name, pattern) for pattern in patterns)]


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def _shortened(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _NAMES_SHOWN} more" if len(listed) > _NAMES_SHOWN else ""
    return ", ".join(listed[:_NAMES_SHOWN]) + more
