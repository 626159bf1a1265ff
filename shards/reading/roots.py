"""Where a shard set lies: a folder, an http(s) address or a `pipe:` command, and how a shard's name joins it.

The root is what the user typed and is trusted; the names come from a manifest, which may come from anywhere. So a
name can only be a plain relative path: it can neither leave the folder nor become a part of a command.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from trichord.core.errors import UserError

PLACEHOLDER = "{name}"
# A leading dash would be an option of the command in a pipe, a colon could begin a scheme.
_COMPONENT = re.compile(r"[\w.@+=,][\w.@+=, -]*")
_SHELL_COMPONENT = re.compile(r"[A-Za-z0-9_.@+=,][A-Za-z0-9_.@+=,-]*")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def check_shard_name(name: str) -> str:
    """Give the name back if it is a plain relative path, else raise ValueError."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or _COMPONENT.fullmatch(part) is None for part in parts):
        raise ValueError(
            f"shard name {name!r} is not a plain relative name: letters, digits, spaces and . _ - + = , @ only, "
            "no '..', nothing absolute, no address"
        )
    return name


@dataclass(frozen=True)
class Root:
    """A shard set's place; `folder` is None when the shards must be streamed from elsewhere."""

    text: str
    folder: Path | None

    @property
    def is_pipe(self) -> bool:
        """Tell whether shards come out of a shell command."""
        return self.text.startswith("pipe:")

    def address(self, name: str) -> str:
        """Give what webdataset's gopen opens for this shard."""
        check_shard_name(name)
        if self.folder is not None:
            return str(self.folder / name)
        if self.is_pipe:
            if not all(_SHELL_COMPONENT.fullmatch(part) for part in name.split("/")):
                raise UserError(
                    f"shard name {name!r} cannot go into the command {self.text!r}: it holds characters that a shell "
                    "could read as its own. Rename the shard with letters, digits and . _ - + = , @ only."
                )
            return self.text.replace(PLACEHOLDER, name)
        escaped = quote(name)
        return self.text.replace(PLACEHOLDER, escaped) if PLACEHOLDER in self.text else f"{self.text}/{escaped}"


def parse_root(text: str | Path) -> Root:
    """Read what the user typed as the place of a shard set."""
    text = str(text)
    if text.startswith("pipe:"):
        if PLACEHOLDER not in text:
            raise UserError(
                f"{text!r} has no place for the shard's name. Write {PLACEHOLDER} where it belongs, for example "
                f'"pipe:aws s3 cp s3://bucket/set/{PLACEHOLDER} -"'
            )
        return Root(text, None)
    if text.startswith(("http://", "https://")):
        return Root(text if PLACEHOLDER in text else text.rstrip("/"), None)
    if text.startswith("file://"):
        return Root(text, Path(text.removeprefix("file://")))
    if _SCHEME.match(text) and "://" in text:
        raise UserError(
            f"{text!r}: this kind of address is not read directly. Give a folder, an http(s):// address, or a command "
            f'that writes the shard to its output, for example "pipe:aws s3 cp {text.rstrip("/")}/{PLACEHOLDER} -"'
        )
    return Root(text, Path(text))
