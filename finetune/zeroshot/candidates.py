"""Candidate classes of a zero-shot test: all of a set, lists of them, or random draws of classes new to another set.

Kinetics-600's zero-shot protocol is three draws of 160 of the classes that Kinetics-400 lacks; other classes and their
clips are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from trichord.core.command import unknown_name
from trichord.core.errors import UserError
from trichord.core.reading import read_text, reason
from trichord.core.seeds import generator
from trichord.finetune.zeroshot.prompts import in_words
from trichord.shards.reading.manifest import Manifest


@dataclass(frozen=True)
class ClassDraws:
    """Number and size of random draws of classes; determined by the seed and the names, not by their numbering."""

    count: int
    size: int
    seed: int = 0


@dataclass(frozen=True)
class Candidates:
    """Candidate classes, by their numbers in the set."""

    title: str
    numbers: tuple[int, ...]


def candidates_of(
    names: Sequence[str], lists: Sequence[Path] = (), draws: ClassDraws | None = None, known: Collection[str] = ()
) -> list[Candidates]:
    """Return the candidates for one set; `known` names classes to exclude, because they were trained on."""
    left_out = {_plain(name) for name in known}
    pool = [number for number, name in enumerate(names) if _plain(name) not in left_out]
    if not pool:
        raise UserError("every class of the set is known from training: none is left to test on")
    if lists:
        return [Candidates(str(path), _numbers(read_names(path), names, path)) for path in lists]
    if draws is None:
        return [Candidates(f"{'all' if len(pool) == len(names) else 'new'} {len(pool)}", tuple(pool))]
    if draws.size > len(pool):
        raise UserError(
            f"--draws {draws.count}x{draws.size}: found draws of {draws.size}, expected at most {len(pool)}"
        )
    by_name = sorted(pool, key=lambda number: names[number])
    return [
        Candidates(f"draw {turn + 1} of {draws.size}", _drawn(by_name, draws.size, draws.seed, turn))
        for turn in range(draws.count)
    ]


def read_names(source: Path) -> list[str]:
    """Read class names from a shard set, or from a file with one on each line."""
    if source.is_dir():
        return list(Manifest.load(source).classes)
    try:
        lines = read_text(source).splitlines()
    except (OSError, ValueError) as error:
        raise UserError(
            f"{source} cannot be read ({reason(error)}); expected a file with one class name on each line"
        ) from error
    return [line.strip() for line in lines if line.strip()]


def _drawn(by_name: Sequence[int], size: int, seed: int, turn: int) -> tuple[int, ...]:
    chosen = generator(seed, "zero-shot classes", turn).choice(len(by_name), size, replace=False)
    return tuple(sorted(by_name[place] for place in chosen.tolist()))


def _numbers(wanted: Sequence[str], names: Sequence[str], path: Path) -> tuple[int, ...]:
    by_name = {_plain(name): number for number, name in enumerate(names)}
    for name in wanted:
        if _plain(name) not in by_name:
            raise UserError(unknown_name(f"{path}: the set has no class", name, list(names)))
    if not wanted:
        raise UserError(f"{path} names no classes; expected one class name on each line")
    return tuple(sorted({by_name[_plain(name)] for name in wanted}))


def _plain(name: str) -> str:
    return in_words(name).casefold()
