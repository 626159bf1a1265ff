"""The location of a shard set (a folder, an http(s) address or a `pipe:` command) and the addresses of its shards.

The root is typed by the user and trusted; the names come from a manifest, which may have any origin. So a name must be
a plain relative path: it can neither leave the folder nor become part of a command.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from trichord.core.errors import UserError

PLACEHOLDER = "{name}"
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
        return self.text.startswith("pipe:")

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


def parse_root(text: str | Path) -> Root:
    """Parse the location of a shard set as typed by the user."""
    text = str(text)
    if text.startswith("pipe:"):
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
