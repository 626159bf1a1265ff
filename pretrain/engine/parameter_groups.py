"""Parameter groups with a common learning rate and weight decay, made by rule from parameters' names and shapes.

Layer-wise decay follows BEiT (Bao et al. 2022): a parameter of layer l of L has layer_decay^(L - 1 - l) times the
scheduled learning rate. The backbone assigns its parameters to layers; parameters outside it (heads) have the full
rate, like the last layer.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import nn

from trichord.core.errors import UserError
from trichord.pretrain.backbones.base import Encoder
from trichord.pretrain.engine.config import GroupRules

__all__ = ["GroupRules", "ParameterGroup", "describe", "group_parameters"]


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with common settings; the scales multiply the scheduled values."""

    name: str
    parameters: dict[str, nn.Parameter]
    lr_scale: float = 1.0
    decay_scale: float = 1.0  # 0: no weight decay
    frozen_steps: int = 0  # the learning rate is 0 before this step


class _Treatment(NamedTuple):
    """The common settings of one group; the order of its fields determines the order of groups."""

    above: int  # number of layers after this one
    lr_scale: float  # in addition to layer-wise decay
    undecayed: bool  # has no weight decay
    frozen_steps: int


def group_parameters(
    module: nn.Module,
    rules: GroupRules,
    backbones: Mapping[str, Encoder] = MappingProxyType({}),
    frozen_steps: Mapping[str, int] = MappingProxyType({}),
) -> list[ParameterGroup]:
    """Return groups of all trainable parameters of `module`, each in exactly one, under their names in `module`.

    `backbones` maps prefixes of parameter names to the encoders that assign layers for layer-wise decay.
    `frozen_steps` maps name patterns to the number of steps for which matching parameters are frozen.
    """
    trainable = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    _check_patterns("optimiser.rules.no_decay_names", rules.no_decay_names, trainable)
    _check_patterns("frozen_steps", frozen_steps, trainable)
    never_decayed = (*rules.no_decay_names, *(each for encoder in backbones.values() for each in encoder.never_decayed))
    members: dict[_Treatment, dict[str, nn.Parameter]] = {}
    for name, parameter in trainable.items():
        above = _layers_above(name, backbones) if rules.layer_decay is not None else 0
        frozen = max((steps for pattern, steps in frozen_steps.items() if fnmatchcase(name, pattern)), default=0)
        scale = ([1.0] + [factor for pattern, factor in rules.lr_scales.items() if fnmatchcase(name, pattern)])[-1]
        treatment = _Treatment(above, scale, _is_undecayed(name, parameter, rules, never_decayed), frozen)
        members.setdefault(treatment, {})[name] = parameter
    last = max((encoder.layers for encoder in backbones.values()), default=1) - 1
    ordered = sorted(members, key=lambda treatment: (-treatment.above, *treatment[1:]))
    return [_group(treatment, members[treatment], rules, last) for treatment in ordered]


def describe(groups: Sequence[ParameterGroup]) -> list[dict[str, object]]:
    """Return a table of the groups for console and log, one row each."""
    return [
        {
            "group": group.name,
            "tensors": len(group.parameters),
            "values": sum(_shape(parameter).numel() for parameter in group.parameters.values()),
            "learning rate x": group.lr_scale,
            "weight decay x": group.decay_scale,
            "frozen until step": group.frozen_steps,
            "such as": next(iter(group.parameters)),
        }
        for group in groups
    ]


def _group(treatment: _Treatment, parameters: dict[str, nn.Parameter], rules: GroupRules, last: int) -> ParameterGroup:
    parts = [f"layer {last - treatment.above}"] if rules.layer_decay is not None else []
    parts += [f"rate x {treatment.lr_scale:g}"] if treatment.lr_scale != 1 else []
    parts.append("not decayed" if treatment.undecayed else "decayed")
    if treatment.frozen_steps:
        parts.append(f"frozen {treatment.frozen_steps}")
    return ParameterGroup(
        name=", ".join(parts),
        parameters=parameters,
        lr_scale=(rules.layer_decay or 1.0) ** treatment.above * treatment.lr_scale,
        decay_scale=0.0 if treatment.undecayed else 1.0,
        frozen_steps=treatment.frozen_steps,
    )


def _layers_above(name: str, backbones: Mapping[str, Encoder]) -> int:
    for prefix, encoder in backbones.items():
        if name.startswith(prefix):
            return encoder.layers - 1 - encoder.layer_of(name.removeprefix(prefix))
    return 0


def _is_undecayed(name: str, parameter: nn.Parameter, rules: GroupRules, never_decayed: Sequence[str]) -> bool:
    is_bias = name.rpartition(".")[2] == "bias"
    if rules.no_decay_one_dimensional and (is_bias or len(_shape(parameter)) <= 1):
        return True
    return any(fnmatchcase(name, pattern) for pattern in never_decayed)


def _shape(parameter: nn.Parameter) -> torch.Size:
    """Return the full shape, even of a parameter that ZeRO 3 has partitioned over ranks."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def _check_patterns(what: str, patterns: Iterable[str], names: Mapping[str, nn.Parameter]) -> None:
    """Raise UserError for a pattern that matches no parameter, which is probably misspelt."""
    for pattern in patterns:
        if any(fnmatchcase(name, pattern) for name in names):
            continue
        endings = {name.rpartition(".")[2]: name for name in list(names)[::-1]} | {name: name for name in names}
        near = difflib.get_close_matches(pattern.strip("*."), endings, n=3, cutoff=0.5)
        listed = list(dict.fromkeys(endings[ending] for ending in near)) or list(names)[:3]
        raise UserError(
            f"{what}: {pattern!r} matches none of the {len(names)} trainable parameters. Near: {', '.join(listed)}"
        )
