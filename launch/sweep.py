"""From one command line to several: `a.b=1,2,3` is a run for each value, and for each pair where there are two such."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from trichord.core.errors import UserError

_SETTING = re.compile(r"(?P<name>[A-Za-z_][\w]*(?:\.\w+)*)=(?P<value>.*)", re.DOTALL)
_OPENING, _CLOSING, _QUOTES = "[{(", "]})", "'\""
_MOST = 1000


def expand(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Give each run's label and words; without a sweep one, whose label is empty. Brackets and quotes hold commas."""
    choices: list[list[tuple[str, str]]] = []  # for each word, what it may be and the part of the label it brings
    for word in words:
        is_other = word.startswith("-") or Path(word).exists()  # runs of a sweep keep their folders by such names
        setting = None if is_other else _SETTING.fullmatch(word)
        values = _split(setting["value"]) if setting else [""]
        if setting is None or len(values) == 1:
            choices.append([("", word)])
            continue
        if not all(values):
            raise UserError(f"{word!r} has an empty value. Expected values such as seed=1,2,3")
        choices.append([(f"{setting['name']}={value}", f"{setting['name']}={value}") for value in values])
    runs = [
        (",".join(_for_a_folder(label) for label, _ in chosen if label), [word for _, word in chosen])
        for chosen in itertools.islice(itertools.product(*choices), _MOST + 1)
    ]
    if len(runs) > _MOST:
        raise UserError(f"this sweep has more than {_MOST} runs. Take fewer values, or launch it in several pieces")
    labels = [label for label, _ in runs]
    if len(set(labels)) < len(labels):
        raise UserError("two runs of this sweep are the same, or differ only in what a folder's name cannot hold")
    return runs


def _split(value: str) -> list[str]:
    """Cut at commas that stand outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for character in value:
        if quote:
            quote = "" if character == quote else quote
        elif character in _QUOTES:
            quote = character
        elif character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        elif character == "," and depth <= 0:
            parts.append("")
            continue
        parts[-1] += character
    return parts


def _for_a_folder(label: str) -> str:
    return re.sub(r"[^\w.=+-]", "_", label)
