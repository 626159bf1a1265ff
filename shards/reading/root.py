"""The location of a shard set: a folder, an http(s) address, or a `pipe:` command that writes each shard.

A command is run only if the person typed it: on the command line, or as an argument of the Python API. Locations are
also stored in recipes, run folders and indexes, which may have any origin. A command in one of those is refused, unless
the person allows all commands for this process with `--allow-commands`. `parse_root` alone decides.

The names of shards come from a manifest, which may have any origin too. So a name must be a plain relative path: it can
neither leave the folder nor become part of a command.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from trichord.core.errors import UserError

PIPE, PLACEHOLDER = "pipe:", "{name}"
ALLOW = "--allow-commands"
# A leading dash would be an option of the command in a pipe, a colon could end a scheme.
_COMPONENT = re.compile(r"[\w.@+=,][\w.@+=, -]*")
_SHELL_COMPONENT = re.compile(r"[A-Za-z0-9_.@+=,][A-Za-z0-9_.@+=,-]*")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def check_shard_name(name: str) -> str:
    """Return the name if it is a plain relative path, else raise ValueError."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or _COMPONENT.fullmatch(part) is None for part in parts):
        raise ValueError(
            f"shard name {name!r} is not a plain relative name: use only letters, digits, spaces and . _ - + = , @; "
            "'..', absolute paths and addresses are not allowed"
        )
    return name


@dataclass(frozen=True)
class Root:
    """The location of a shard set; `folder` is None when the shards are remote."""

    text: str
    folder: Path | None

    @property
    def is_pipe(self) -> bool:
        """Whether shards are the output of a shell command."""
        return self.text.startswith(PIPE)

    def address(self, name: str) -> str:
        """Return the address of this shard for webdataset's gopen."""
        check_shard_name(name)
        if self.folder is not None:
            return str(self.folder / name)
        if self.is_pipe:
            if not all(_SHELL_COMPONENT.fullmatch(part) for part in name.split("/")):
                raise UserError(
                    f"shard name {name!r} cannot be inserted into the command {self.text!r}: it has characters that "
                    "a shell could interpret. Rename the shard, with only letters, digits and . _ - + = , @"
                )
            return self.text.replace(PLACEHOLDER, name)
        escaped = quote(name)
        return self.text.replace(PLACEHOLDER, escaped) if PLACEHOLDER in self.text else f"{self.text}/{escaped}"


class _Permission:
    """The commands that this process may run; new processes get roots that were parsed here."""

    typed: set[str]
    allows_all: bool
    untyped: list[str]  # those that ran only because all are allowed

    def __init__(self) -> None:
        self.typed, self.allows_all, self.untyped = set(), False, []


_PERMISSION = _Permission()


def allow_typed(words: Iterable[object]) -> None:
    """Allow the commands in words that the person typed: each as a word, or within the YAML value of a setting."""
    for word in map(str, words):
        if PIPE in word:
            _PERMISSION.typed.update(text for text in _texts(word) if text.startswith(PIPE))


def permitted(words: Sequence[str]) -> list[str]:
    """Allow what a typed command line allows, and return it without the flag, which may stand anywhere in it."""
    allow_typed(words)
    if ALLOW in words:
        allow_all_commands()
    return [word for word in words if word != ALLOW]


def allow_all_commands() -> None:
    """Allow every command, also those in files; each is printed before it runs."""
    _PERMISSION.allows_all = True


def untyped_commands() -> list[str]:
    """Return the commands that were accepted although the person did not type them."""
    return list(_PERMISSION.untyped)


def refuse_untyped(text: str, origin: str) -> None:
    """Raise UserError if this root is a command that may not be run; `origin` is where it was found."""
    if not text.startswith(PIPE) or text in _PERMISSION.typed or text in _PERMISSION.untyped:
        return
    if not _PERMISSION.allows_all:
        raise UserError(
            f"{text!r} is a shell command. It was not typed here, but found in {origin}, so it was not run. "
            f"Next: if you trust it, add {ALLOW}"
        )
    _PERMISSION.untyped.append(text)
    print(f"{ALLOW}: {text!r}, found in {origin}, may run", file=sys.stderr)


def _texts(word: str) -> Iterator[str]:
    """Yield the word, its value if it is a setting, and all texts within that value."""
    value = word.partition("=")[2]
    yield from (word, value)
    from trichord.core.yaml_subset import read_yaml  # only for words with commands

    try:
        waiting: list[Any] = [read_yaml(value, word)]
    except UserError:
        return
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict | list):
            waiting.extend(each.values() if isinstance(each, dict) else each)


def parse_root(text: str | Path, origin: str = "a file: a recipe, a run folder or an index") -> Root:
    """Parse the location of a shard set; raise UserError for a command that the person neither typed nor allowed."""
    text = str(text)
    if "\0" in text:
        raise UserError(f"{text!r} is no place of shards: it holds a NUL character")
    if text.startswith(PIPE):
        refuse_untyped(text, origin)
        if PLACEHOLDER not in text:
            raise UserError(
                f"{text!r} has no placeholder for the shard's name. Write {PLACEHOLDER} in its place, for example "
                f'"pipe:aws s3 cp s3://bucket/set/{PLACEHOLDER} -"'
            )
        return Root(text, None)
    if text.startswith(("http://", "https://")):
        return Root(text if PLACEHOLDER in text else text.rstrip("/"), None)
    if text.startswith("file://"):
        return Root(text, Path(text.removeprefix("file://")))
    if _SCHEME.match(text) and "://" in text:
        raise UserError(
            f"{text!r}: this kind of address is not supported. Use a folder, an http(s):// address, or a command that "
            f'writes the shard to standard output, for example "pipe:aws s3 cp {text.rstrip("/")}/{PLACEHOLDER} -"'
        )
    return Root(text, Path(text))
