"""From the names of classes to texts: the sets of prompts that were published, by name; read without torch.

Results move by points with these words, so whoever reports a figure names the set beside it. X-CLIP and ViFi-CLIP were
measured with bare names; OpenAI's sets are those of its list of prompts for CLIP (Radford et al. 2021), one by one as
they are, "a example" included; ActionCLIP's are those of its released code (Wang et al. 2021).

Among which classes a test lets its model choose: all of a set, lists of them, or draws of those new to another set.

Kinetics-600's zero-shot protocol is three draws of 160 of the classes that Kinetics-400 lacks; clips of other classes
are left out, and so are other classes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from trichord.core.command import unknown_name
from trichord.core.errors import UserError
from trichord.core.seeds import generator
from trichord.shards.reading.manifest import Manifest

NamesAs = Literal["words", "given"]
PLACE = "{}"  # where a class's name goes

_SHOWN = ("photo", "video", "example", "demonstration")
_DONE = ("", "using ", "doing ", "during ", "performing ", "practicing ")
_WORDS_WITHIN = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

PROMPTS: dict[str, tuple[str, ...]] = {
    "bare": (PLACE,),
    "photo": (f"a photo of {PLACE}.",),
    "video": (f"a video of {PLACE}.",),
    "openai_ucf101": tuple(
        f"a {shown} of {article} person {done}{PLACE}." for done, article, shown in product(_DONE, ("a", "the"), _SHOWN)
    ),
    "openai_kinetics700": tuple(
        f"a {shown} of {who}{PLACE}." for shown, who in product(_SHOWN, ("", *(f"a person {done}" for done in _DONE)))
    ),
    "actionclip": (
        *(f"{begins} action {PLACE}" for begins in ("a photo of", "a picture of")),
        *(f"{begins} action of {PLACE}" for begins in ("Human", "Playing")),
        *(f"{does} a kind of action, {PLACE}" for does in ("Playing", "Doing")),
        *(f"{PLACE}{ends}" for ends in ("", ", an action", " this is an action", ", a video of action")),
        *(f"{who} is {PLACE}" for who in ("Look, the human", "The man", "The woman")),
        *(f"{begins} of {PLACE}" for begins in ("Video classification", "A video")),
        f"Can you recognize the action of {PLACE}?",
    ),
}


def templates_of(prompts: str) -> tuple[str, ...]:
    """Give the templates of a set, or the one that stands there instead of a set's name."""
    if PLACE in prompts:
        return (prompts,)
    if prompts not in PROMPTS:
        raise ValueError(f"{unknown_name('no prompts', prompts, list(PROMPTS))}, or a text with {PLACE} in it")
    return PROMPTS[prompts]


def in_words(name: str) -> str:
    """Take a name apart as data sets write them: `ApplyEyeMakeup` and `apply_eye_makeup` are apply eye makeup."""
    spaced = " ".join(name.replace("_", " ").split())
    if " " in spaced or spaced.isupper():
        return spaced
    parts = _WORDS_WITHIN.split(spaced)
    return " ".join(part if len(part) > 1 and part.isupper() else part.lower() for part in parts)


def texts_of(names: Sequence[str], prompts: str, names_as: NamesAs = "words") -> list[list[str]]:
    """Give for each template the texts of all classes."""
    said = [in_words(name) if names_as == "words" else name for name in names]
    return [[template.replace(PLACE, name) for name in said] for template in templates_of(prompts)]


@dataclass(frozen=True)
class Draws:
    """So many draws of so many classes; the same for the same seed and names, whatever their numbers."""

    count: int
    size: int
    seed: int = 0


@dataclass(frozen=True)
class Candidates:
    """Classes to choose among, by their numbers in the set."""

    title: str
    numbers: tuple[int, ...]


def candidates_of(
    names: Sequence[str], lists: Sequence[Path] = (), draws: Draws | None = None, known: Collection[str] = ()
) -> list[Candidates]:
    """Give what one set is tested on; `known` names classes that are no candidates, for they were trained on."""
    left_out = {_plain(name) for name in known}
    pool = [number for number, name in enumerate(names) if _plain(name) not in left_out]
    if not pool:
        raise UserError(f"all {len(names)} classes are known from training: none is left to be tested on")
    if lists:
        return [Candidates(str(path), _numbers(read_names(path), names, path)) for path in lists]
    if draws is None:
        return [Candidates(f"{'all' if len(pool) == len(names) else 'new'} {len(pool)}", tuple(pool))]
    if draws.size > len(pool):
        raise UserError(f"--draws {draws.count}x{draws.size}: there are {len(pool)} classes to draw from")
    by_name = sorted(pool, key=lambda number: names[number])
    return [
        Candidates(f"draw {turn + 1} of {draws.size}", _drawn(by_name, draws.size, draws.seed, turn))
        for turn in range(draws.count)
    ]


def read_names(source: Path) -> list[str]:
    """Read names of classes: of a shard set, or of a file with one on each line."""
    if source.is_dir():
        return list(Manifest.load(source).classes)
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{source} cannot be read ({error}); expected a file with a class's name on each line"
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
        raise UserError(f"{path} names no classes; expected one on each line")
    return tuple(sorted({by_name[_plain(name)] for name in wanted}))


def _plain(name: str) -> str:
    return in_words(name).casefold()
