"""The definition of a command of the command line, and the options that many commands share."""

from __future__ import annotations

import difflib
import json
import math
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from trichord.core.errors import UserError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from trichord.core.job import Job

    M = TypeVar("M", bound=BaseModel)

_BYTE_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>|[KMG]?B)", re.IGNORECASE)
_BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True)
class Command:
    """One command. `declare` and `run` are called only when the command is used, so they may import heavy modules."""

    name: str
    summary: str
    declare: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]
    examples: Sequence[str] = ()
    job: Callable[[Namespace], Job] | None = None  # for `trichord launch`, if the command can run on a cluster


def add_json(parser: ArgumentParser) -> None:
    """Declare `--json`, for every command that prints figures."""
    parser.add_argument("--json", action="store_true", help="print figures as one line of JSON on standard output")


def add_out(parser: ArgumentParser, what: str) -> None:
    """Declare `--out DIR`."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=what)


def add_workers(parser: ArgumentParser) -> None:
    """Declare `--workers N`."""
    parser.add_argument("--workers", type=at_least(1), metavar="N", help="number of processes (default: one per core)")


def add_settings(parser: ArgumentParser, option: str, model: type[BaseModel], what: str) -> None:
    """Declare an option for `name=value` pairs of a model's fields, whose help lists them with their defaults."""
    fields = ", ".join(f"{name}={_default(field.default)}" for name, field in model.model_fields.items())
    help_text = f"{what}: {fields}".replace("%", "%%")
    parser.add_argument(option, nargs="+", action="extend", metavar="NAME=VALUE", default=[], help=help_text)


def read_settings(option: str, pairs: Iterable[str], model: type[M]) -> M:
    """Return the model built from `name=value` pairs; the error for an unknown name suggests the nearest one."""
    from pydantic import ValidationError

    found = read_pairs(option, pairs)
    for name in found:
        if name not in model.model_fields:
            raise UserError(unknown_name(f"{option}: no setting", name, list(model.model_fields)))
    try:
        return model.model_validate(found)
    except ValidationError as error:
        lines = (
            f"{option} {'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg'].removeprefix('Value error, ')}, "
            f"found {e['input']!r}"
            for e in error.errors()
        )
        raise UserError("\n".join(lines)) from error


def read_pairs(option: str, pairs: Iterable[str]) -> dict[str, object]:
    """Parse `name=value` pairs; a value that is valid JSON is parsed, any other is kept as text."""
    found: dict[str, object] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UserError(f"{option}: found {pair!r}, expected NAME=VALUE")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def unknown_name(what: str, name: str, known: Sequence[str]) -> str:
    """Return the message for an unknown name: the name, the nearest known one, and all known ones."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{what} {name!r}.{hint}\nKnown: {', '.join(known)}"


def at_least(smallest: int) -> Callable[[str], int]:
    """Return an argparse type for whole numbers of at least `smallest`."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < smallest:
            raise ArgumentTypeError(f"found {text!r}, expected a whole number of at least {smallest}")
        return int(text)

    return read


def add_part(parser: ArgumentParser, what: str) -> None:
    """Declare `--part I/N`, for work that independent jobs can share."""
    parser.add_argument("--part", type=_part, metavar="I/N", help=what)


def _part(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ArgumentTypeError(f"found {text!r}, expected I/N with I from 1 to N, such as 3/16")
    return int(number), int(count)


def share(text: str) -> float:
    """Parse a share, from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ArgumentTypeError(f"found {text!r}, expected a share from 0 to 1, such as 0.05")
    return value


def byte_size(text: str) -> int:
    """Parse a size such as `500MB` or `1.5GB` (powers of ten), or a number of bytes."""
    found = _BYTE_SIZE.fullmatch(text)
    if found is None or float(found["number"]) == 0:
        raise ArgumentTypeError(f"found {text!r}, expected a size such as 500MB or 1.5GB")
    return int(float(found["number"]) * _BYTES[found["unit"].upper()])


def _default(value: object) -> str:
    return json.dumps(value, default=str).replace(" ", "")
