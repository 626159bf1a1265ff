"""Checks of the arguments of public functions; an error names the argument, its value and what was expected."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch

from trichord.core.command import unknown_name
from trichord.core.errors import UserError
from trichord.pretrain.engine.device import pick_device


def at_least(smallest: int, **numbers: int | None) -> None:
    """Raise UserError for an argument that is not a whole number of at least `smallest`; None is a default."""
    for name, number in numbers.items():
        if number is not None and not (isinstance(number, int) and number >= smallest):
            raise UserError(f"{name}={number!r}: expected a whole number of at least {smallest}")


def above_zero(**numbers: float | None) -> None:
    """Raise UserError for an argument that is not a finite number above 0; None is a default."""
    for name, number in numbers.items():
        if number is not None and not 0 < number < math.inf:
            raise UserError(f"{name}={number!r}: expected a number above 0")


def shares(**numbers: float) -> None:
    """Raise UserError for an argument that is not between 0 and 1."""
    for name, number in numbers.items():
        if not 0 <= number <= 1:
            raise UserError(f"{name}={number!r}: expected a share from 0 to 1, such as 0.05")


def one_of(known: Iterable[str], **names: str | None) -> None:
    """Raise UserError for an argument that is none of the known names; None is a default."""
    for argument, name in names.items():
        if name is not None and name not in (listed := list(known)):
            raise UserError(unknown_name(f"no {argument}", str(name), listed))


def texts(what: str, given: object) -> list[str]:
    """Return texts as a list; raise UserError for a single text and for what is no text."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise UserError(f"{what}={given!r}: expected a list of texts")
    found = list(given)
    for each in found:
        if not isinstance(each, str):
            raise UserError(f"{what}: expected texts, found {each!r}")
    return list(map(str, found))


def not_empty(**given: Sequence[object]) -> None:
    """Raise UserError for an empty list."""
    for name, values in given.items():
        if not values:
            raise UserError(f"{name}: expected at least one, found none")


def device(given: str | torch.device | None) -> torch.device:
    """Return a device that can be used: by default a GPU if there is one; raise UserError for any other."""
    if given is None:
        return pick_device(0)
    try:
        found = torch.device(given)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"device={str(given)!r} cannot be used: {reason}. Expected one such as 'cpu' or 'cuda:0'"
        ) from error
    return found
