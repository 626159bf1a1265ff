"""The transfer of shards from their root.

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
from trichord.core.reading import open_regular
from trichord.shards.reading.root import Root

_CHUNK = 1 << 20
# Media hardly shrink under compression, captions by a factor of ten; a factor above a hundred is a bomb.
_LARGEST_RATIO = 100
_ALWAYS_ALLOWED_BYTES = 1 << 24
_LARGEST_DICTIONARY = 1 << 28  # of xz; its strongest preset takes 65 MiB
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
            with open_regular(path) as file:
                descriptor = os.dup(file.fileno())
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
    is_xz = magic.startswith(b"\xfd7zXZ")
    return (lambda: lzma.LZMADecompressor(memlimit=_LARGEST_DICTIONARY)) if is_xz else None
