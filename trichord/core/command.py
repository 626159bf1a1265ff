"""The definition of a command of the command line, its work on a cluster, and the options that many commands share."""

from __future__ import annotations

import difflib
import json
import math
import re
import shlex
from abc import ABC, abstractmethod
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from trichord.core.errors import UserError
from trichord.core.registry import load

if TYPE_CHECKING:
    from pydantic import BaseModel

    M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Job(ABC):
    """A command that is to run on a cluster. Nothing here may import torch, because login nodes are slow."""

    name: str  # of the job in the queue
    folder: Path  # of the run, for its history, logs and snapshots

    is_of_parts: bool = False  # the work can be divided into parts for independent jobs
    saves_on_signal: bool = False  # on a signal it saves and stops by itself; otherwise the signal interrupts it

    def within(self, label: str) -> Self:
        """Return the same work in a subfolder, as one element of a sweep."""
        return replace(self, name=f"{self.name}-{label}", folder=self.folder / label)

    @abstractmethod
    def words(self, snapshot: Path, part: tuple[int, int] | None) -> Sequence[str]:
        """Return the command to run in the job, without `trichord`; it reads the `files` in the snapshot.

        `part` is (I, N): part I of N, counted from 1.
        """

    @abstractmethod
    def files(self, ranks: int) -> Mapping[str, str]:
        """Return the files of this work for the snapshot, as contents by file name; above all, its resolved config."""

    @abstractmethod
    def check(self, ranks: int) -> Sequence[str]:
        """Check what could fail at the start: raise UserError for a failure, return a line for each passed check."""

    def weigh(self, ranks: int, device: str | None) -> Sequence[str]:
        """Run checks as in `check` that take longer, such as measuring its memory use; this may import torch."""
        return ()


T = TypeVar("T")
R = TypeVar("R")
_BYTE_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>|[KMG]?B)", re.IGNORECASE)
_BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


class Command:
    """One command; its functions run only when it is used, so they may import heavy modules.

    `declare`, `run` and `job` are functions or their places, such as ``"trichord.shards.building.job:build_job"``,
    which are imported when they are called.
    """

    def __init__(
        self,
        name: str,
        summary: str,
        declare: Callable[[ArgumentParser], None] | str,
        run: Callable[[Namespace], int] | str,
        examples: Sequence[str] = (),
        job: Callable[[Namespace], Job] | str | None = None,
    ) -> None:
        self.name = name
        self.summary = summary
        self.examples = examples
        self.declare: Callable[[ArgumentParser], None] = _deferred(declare)
        self.run: Callable[[Namespace], int] = _deferred(run)
        # For `trichord launch`, if the command can run on a cluster.
        self.job: Callable[[Namespace], Job] | None = None if job is None else _deferred(job)


def _deferred(function: Callable[[T], R] | str) -> Callable[[T], R]:
    """Return the function, or one that imports it from its place on each call."""
    if not isinstance(function, str):
        return function
    place = function

    def call(argument: T) -> R:
        found: R = load(place)(argument)
        return found

    return call


def command_line(*words: object) -> str:
    """Return a trichord command to show in a message, quoted so that it can be pasted into a shell."""
    return shlex.join(["trichord", *map(str, words)])


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
    return validated(option, read_pairs(option, pairs), model)


def validated(what: str, found: Mapping[str, object], model: type[M]) -> M:
    """Return the model built from settings; raise UserError for an unknown name or a wrong value."""
    from pydantic import ValidationError

    for name in found:
        if name not in model.model_fields:
            raise UserError(unknown_name(f"{what}: no setting", name, list(model.model_fields)))
    try:
        return model.model_validate(found)
    except ValidationError as error:
        lines = (
            f"{what} {'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg'].removeprefix('Value error, ')}, "
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
