"""Bring a shard to where it can be read by offsets: a local file as it is, all else through webdataset's gopen.

What is streamed or unpacked goes into the cache under a temporary name and is renamed when it is whole, so that any
number of workers may want the same shard; without a cache it goes into an anonymous file that nobody has to delete.
"""

from __future__ import annotations

import bz2
import hashlib
import lzma
import os
import select
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt

from trichord.core.errors import Cause, SampleError
from trichord.core.files import whole_file
from trichord.shards.reading.roots import Root

_CHUNK = 1 << 20
# Media hardly shrink; captions do by ten. Beyond a hundred it is a bomb.
_LARGEST_RATIO = 100
_ALWAYS_ALLOWED_BYTES = 1 << 24
_UNPACKED_AT_ONCE = 1 << 12  # packed bytes: even a bomb swells to no more than memory can hold between two checks


class TransferPolicy(BaseModel):
    """How patient a transfer is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempts: PositiveInt = 4
    first_wait_s: NonNegativeFloat = 1.0  # doubled after each failure
    stall_s: PositiveFloat = 120.0  # a transfer that gives nothing for so long has failed


@dataclass(frozen=True)
class OpenShard:
    """A shard that can be read by offsets; `path` is None when the descriptor cannot be opened again."""

    descriptor: int
    path: Path | None
    stored_bytes: int  # as it lies at its root, packed or not
    sha256: str | None  # known when it was just transferred


def open_shard(
    root: Root, name: str, cache_dir: Path | None, size: int | None, sha256: str | None, policy: TransferPolicy
) -> OpenShard:
    """Open a shard wherever it lies; raise SampleError(SHARD_UNREADABLE) if it cannot be had."""
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
    """Stream a shard into `sink`, trying again a bounded number of times; give its checksum."""
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
                raise OSError(f"got {held} bytes, the manifest says {size}")
            if sha256 is not None and digest.hexdigest() != sha256:
                raise OSError("its checksum differs from the manifest's")
            return digest.hexdigest()
        except OSError as error:
            if attempt + 1 == policy.attempts:
                raise OSError(f"{address}: {error} (tried {policy.attempts} times)") from error
            time.sleep(policy.first_wait_s * 2**attempt)
    raise AssertionError("a policy has at least one attempt")


def read_small(root: Root, name: str, limit: int) -> bytes:
    """Read a small remote file, such as a manifest, whole."""
    content = b""
    for chunk in _stream(root.address(name), TransferPolicy().stall_s):
        content += chunk
        if len(content) > limit:
            raise OSError(f"{root.address(name)} is larger than {limit} bytes")
    return content


def _stream(address: str, stall_s: float) -> Iterator[bytes]:
    """Yield what gopen's command writes; a failed or silent command raises OSError."""
    from webdataset.gopen import gopen  # brings torch, which a local manifest does not need

    pipe: Any = gopen(address, "rb")
    descriptor = pipe.stream.fileno()
    try:
        while True:
            ready, _, _ = select.select([descriptor], [], [], stall_s)
            if not ready:
                raise OSError(f"nothing came for {stall_s:.0f} s")
            chunk = os.read(descriptor, _CHUNK)
            if not chunk:
                break
            yield chunk
    except BaseException:
        pipe.ignore_errors = True  # the first error is the one to tell
        pipe.proc.kill()
        pipe.close()
        raise
    pipe.timeout = stall_s
    try:
        pipe.close()  # raises OSError for a command that failed
    except subprocess.TimeoutExpired as error:
        pipe.proc.kill()
        raise OSError(f"the command went on for {stall_s:.0f} s after its output ended") from error


def _cached(
    root: Root, name: str, cache_dir: Path, size: int | None, sha256: str | None, policy: TransferPolicy
) -> Path:
    """Give the cached copy of a shard, fetching it if there is none of the right size."""
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
                break  # damaged: the walk over what came out will say where it ends
            sink.write(content)
            if sink.tell() > limit:
                raise ValueError(f"unpacks to more than {_LARGEST_RATIO} times its size")
            chunk = unpacker.unused_data  # several packed streams may follow one another
            if unpacker.eof:
                unpacker = make()
        sink.flush()
        return os.dup(sink.fileno())


def _find_unpacker(beginning: bytes) -> Callable[[], Any] | None:
    """Choose by the first bytes, among the kinds that tarfile, and so webdataset, accepts."""
    if beginning.startswith(b"\x1f\x8b"):
        return lambda: zlib.decompressobj(wbits=31)
    if beginning.startswith(b"BZh"):
        return bz2.BZ2Decompressor
    return lzma.LZMADecompressor if beginning.startswith(b"\xfd7zXZ") else None
