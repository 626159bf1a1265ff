"""The location of a shard set (a folder, an http(s) address or a `pipe:` command) and the transfer of its shards.

The root is typed by the user and trusted; the names come from a manifest, which may have any origin. So a name must be
a plain relative path: it can neither leave the folder nor become part of a command.

Shards are read by offsets: local files are opened directly, remote ones are streamed with webdataset's gopen. A
streamed shard is written to the cache under a temporary name and renamed when it is complete, so any number of workers
can request the same shard. Without a cache, and for unpacked shards, an anonymous file is used, which needs no
clean-up.
"""

from __future__ import annotations

import bz2
import hashlib
import lzma
import os
import re
import select
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt

from trichord.core.errors import Cause, SampleError, UserError
from trichord.core.files import whole_file

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


_CHUNK = 1 << 20
# Media hardly shrink under compression, captions by a factor of ten; a factor above a hundred is a bomb.
_LARGEST_RATIO = 100
_ALWAYS_ALLOWED_BYTES = 1 << 24
_UNPACKED_AT_ONCE = 1 << 12  # packed bytes: between two checks, even a bomb expands to no more than fits in memory


class TransferPolicy(BaseModel):
    """Retries and timeouts of a transfer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempts: PositiveInt = 4
    """Number of attempts to transfer a shard."""
    first_wait_s: NonNegativeFloat = 1.0
    """Seconds to wait after the first failed attempt; the wait doubles after each further one."""
    stall_s: PositiveFloat = 120.0
    """Seconds without data after which a transfer counts as failed."""


@dataclass(frozen=True)
class OpenShard:
    """A shard that can be read by offsets; `path` is None when the descriptor cannot be opened again."""

    descriptor: int
    path: Path | None
    stored_bytes: int  # as stored at the root, compressed or not
    sha256: str | None  # known if it was just transferred


def open_shard(
    root: Root, name: str, cache_dir: Path | None, size: int | None, sha256: str | None, policy: TransferPolicy
) -> OpenShard:
    """Open a local or remote shard; raise SampleError(SHARD_UNREADABLE) if that fails."""
    found = sha256 if root.folder is None else None
    path: Path | None = None
    try:
        if root.folder is not None:
            path = root.folder / name
        elif cache_dir is not None:
            path = _cached(root, name, cache_dir, size, sha256, policy)
        if path is not None:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        else:
            with tempfile.TemporaryFile() as sink:
                found = transfer(root, name, sink, size, sha256, policy)
                descriptor = os.dup(sink.fileno())
        stored = os.fstat(descriptor).st_size
        unpacked = _unpack(descriptor, cache_dir)
    except (OSError, ValueError) as error:
        raise SampleError(Cause.SHARD_UNREADABLE, f"{name}: {error}") from error
    return OpenShard(*((descriptor, path) if unpacked is None else (unpacked, None)), stored, found)


def transfer(
    root: Root, name: str, sink: IO[bytes], size: int | None, sha256: str | None, policy: TransferPolicy
) -> str:
    """Stream a shard into `sink`, with a bounded number of retries; return its checksum."""
    address = root.address(name)
    for attempt in range(policy.attempts):
        sink.seek(0)
        sink.truncate()
        digest = hashlib.sha256()
        held = 0
        try:
            for chunk in _stream(address, policy.stall_s):
                sink.write(chunk)
                digest.update(chunk)
                held += len(chunk)
            sink.flush()
            if size is not None and held != size:
                raise OSError(f"received {held} bytes, the manifest says {size}")
            if sha256 is not None and digest.hexdigest() != sha256:
                raise OSError("its checksum differs from the manifest's")
            return digest.hexdigest()
        except OSError as error:
            if attempt + 1 == policy.attempts:
                tries = "once" if policy.attempts == 1 else f"{policy.attempts} times"
                raise OSError(f"{address}: {error} (tried {tries})") from error
            time.sleep(policy.first_wait_s * 2**attempt)
    raise AssertionError("a policy has at least one attempt")


def read_small(root: Root, name: str, limit: int) -> bytes:
    """Read a whole small remote file, such as a manifest; raise OSError above `limit` bytes."""
    content = b""
    for chunk in _stream(root.address(name), TransferPolicy().stall_s):
        content += chunk
        if len(content) > limit:
            raise OSError(f"{root.address(name)} is larger than {limit} bytes")
    return content


def _stream(address: str, stall_s: float) -> Iterator[bytes]:
    """Yield the output of gopen's command; raise OSError if it fails or stalls."""
    from webdataset.gopen import gopen  # imports torch, which a local manifest does not need

    pipe: Any = gopen(address, "rb")
    descriptor = pipe.stream.fileno()
    try:
        while True:
            ready, _, _ = select.select([descriptor], [], [], stall_s)
            if not ready:
                raise OSError(f"no data received for {stall_s:.0f} s")
            chunk = os.read(descriptor, _CHUNK)
            if not chunk:
                break
            yield chunk
    except BaseException:
        pipe.ignore_errors = True  # report the first error only
        pipe.proc.kill()
        pipe.close()
        raise
    pipe.timeout = stall_s
    try:
        pipe.close()  # raises OSError for a command that failed
    except subprocess.TimeoutExpired as error:
        pipe.proc.kill()
        raise OSError(f"the command was still running {stall_s:.0f} s after its output ended") from error


def _cached(
    root: Root, name: str, cache_dir: Path, size: int | None, sha256: str | None, policy: TransferPolicy
) -> Path:
    """Return the path of a shard in the cache, after fetching it if there is no copy of the right size."""
    path = cache_dir / hashlib.sha256(root.text.encode()).hexdigest()[:16] / name
    if path.is_file() and (size is None or path.stat().st_size == size):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as sink:
        transfer(root, name, sink, size, sha256, policy)
    return path


def _unpack(descriptor: int, folder: Path | None) -> int | None:
    """Unpack a compressed shard into an anonymous file and close the packed one; None if it is not compressed."""
    make = _find_unpacker(os.pread(descriptor, 8, 0))
    if make is None:
        return None
    limit = _ALWAYS_ALLOWED_BYTES + _LARGEST_RATIO * os.fstat(descriptor).st_size
    with os.fdopen(descriptor, "rb") as packed, tempfile.TemporaryFile(dir=folder) as sink:
        packed.seek(0)
        unpacker, chunk = make(), b""
        while chunk := chunk or packed.read(_UNPACKED_AT_ONCE):
            try:
                content = unpacker.decompress(chunk)
            except (OSError, zlib.error, lzma.LZMAError):
                break  # damaged: the scan of the unpacked part will report where it ends
            sink.write(content)
            if sink.tell() > limit:
                raise ValueError(f"unpacks to more than {_LARGEST_RATIO} times its size")
            chunk = unpacker.unused_data  # several packed streams may follow one another
            if unpacker.eof:
                unpacker = make()
        sink.flush()
        return os.dup(sink.fileno())


def _find_unpacker(magic: bytes) -> Callable[[], Any] | None:
    """Choose by the first bytes, among the formats that tarfile, and so webdataset, accepts."""
    if magic.startswith(b"\x1f\x8b"):
        return lambda: zlib.decompressobj(wbits=31)
    if magic.startswith(b"BZh"):
        return bz2.BZ2Decompressor
    return lzma.LZMADecompressor if magic.startswith(b"\xfd7zXZ") else None
