"""Random access to the samples of a shard: its headers are scanned once, then each sample is read on demand.

Members are grouped as in webdataset: the members of one key are adjacent, the key ends at the first dot of the file
name, suffixes are lower case, and `__meta__` names are skipped. Nothing is ever unpacked to a path, and pickles are
never read.
"""

from __future__ import annotations

import os
import re
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from webdataset.handlers import ignore_and_continue
from webdataset.tariterators import base_plus_ext

from trichord.core.errors import Cause, SampleError
from trichord.shards.reading.root import Root
from trichord.shards.reading.tar_headers import walk_headers
from trichord.shards.reading.transfer import OpenShard, TransferPolicy, open_shard
from trichord.shards.record import AUDIO_EXTENSIONS, PICKLE_EXTENSIONS, VIDEO_EXTENSIONS, RawSample

Handler = Callable[[Exception], bool]  # as in webdataset: re-raises, or returns whether to continue

_META = re.compile(r"__[^/]*__($|/)")  # names that webdataset skips
_COMPRESSED = ("gz", "bz2", "xz")
_MEDIA = VIDEO_EXTENSIONS + AUDIO_EXTENSIONS
_LONGEST_NAME = 4096  # characters, as of a path of Linux
_NAMED_PROBLEMS = 100  # problems kept with their names per shard; all are counted
_READ_TOGETHER = 1 << 16  # samples of up to this many bytes are read in one call and then split into members


class Problem(NamedTuple):
    """A member that was left out, and the reason."""

    name: str
    cause: Cause
    detail: str


class ArchiveListing:
    """Offsets and sizes of the members of each sample, in flat arrays: about 100 kB for a shard of 1000 clips."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.problems: list[Problem] = []
        self.counts: Counter[Cause] = Counter()
        self.ignored = 0  # links, folders, devices, names without a suffix
        self.ending: SampleError | None = None  # why the scan stopped before the end marker
        self.first_member = array("q", [0])
        self.suffixes: list[str] = []
        self.offsets = array("q")
        self.sizes = array("q")

    def add(self, key: str, members: dict[str, tuple[int, int]]) -> None:
        """Add a complete sample; `members` maps suffixes to (offset, size)."""
        self.keys.append(key)
        for suffix, (offset, size) in members.items():
            self.suffixes.append(suffix)
            self.offsets.append(offset)
            self.sizes.append(size)
        self.first_member.append(len(self.suffixes))

    def note(self, problem: Problem, handler: Handler) -> bool:
        """Count a problem and return the handler's answer on whether to continue."""
        self.counts[problem.cause] += 1
        if len(self.problems) < _NAMED_PROBLEMS:
            self.problems.append(problem)
        return handler(SampleError(problem.cause, f"{problem.name}: {problem.detail}"))


def scan(descriptor: int, name: str, handler: Handler = ignore_and_continue) -> ArchiveListing:
    """List the samples of a tar file; unusable members are recorded as problems and do not hide the others."""
    listing = ArchiveListing()
    seen: set[str] = set()
    key, members = "", dict[str, tuple[int, int]]()
    is_repeated = False
    try:
        for member in walk_headers(descriptor):
            if member.is_file and _is_unsafe(member.name):
                problem = Problem(
                    member.name, Cause.UNSAFE_NAME, "the name leaves its folder, is unprintable or too long"
                )
                if not listing.note(problem, handler):
                    return listing
                continue
            prefix, suffix = base_plus_ext(member.name) if member.is_file else (None, None)
            if prefix is None or suffix is None or _META.match(member.name):
                listing.ignored += 1
                continue
            suffix = suffix.lower()
            if prefix != key:
                if members:
                    listing.add(key, members)
                key, members = prefix, {}
                is_repeated = prefix in seen
                seen.add(prefix)
                if is_repeated and not listing.note(Problem(prefix, Cause.DUPLICATE_KEY, "repeated key"), handler):
                    return listing
            if is_repeated:
                continue
            rejection = _check_member(member.name, suffix, members)
            if rejection is None:
                members[suffix] = (member.offset, member.size)
            elif not listing.note(rejection, handler):
                return listing
    except SampleError as error:
        # The sample at the damaged place may lack members, so it is left out, with everything after it.
        listing.ending = error
        listing.note(Problem(name, error.cause, error.detail), handler)
        return listing
    if members:
        listing.add(key, members)
    return listing


def _is_unsafe(name: str) -> bool:
    return len(name) > _LONGEST_NAME or name.startswith("/") or ".." in name.split("/") or not name.isprintable()


def _check_member(name: str, suffix: str, members: dict[str, tuple[int, int]]) -> Problem | None:
    """Return the reason why this member must not be used, or None."""
    kinds = suffix.split(".")
    if kinds[-1] in PICKLE_EXTENSIONS or (kinds[-1] in _COMPRESSED and kinds[-2:-1] and kinds[-2] in PICKLE_EXTENSIONS):
        return Problem(name, Cause.PICKLE_MEMBER, "pickled members are never read")
    if suffix in members:
        return Problem(name, Cause.DUPLICATE_KEY, "the sample already has a member with this suffix; the first is kept")
    return None


class Archive:
    """The samples of one shard by position, in the order in which their keys first appear."""

    def __init__(self, name: str, listing: ArchiveListing, shard: OpenShard, max_bytes: int | None) -> None:
        self.name = name
        self.listing = listing
        self.stored_bytes = shard.stored_bytes
        self.sha256 = shard.sha256
        self._descriptor: int | None = shard.descriptor
        self._path = shard.path
        self._max_bytes = max_bytes

    def __len__(self) -> int:
        return len(self.listing.keys)

    @property
    def keys(self) -> Sequence[str]:
        """Keys of the samples, in order."""
        return self.listing.keys

    @property
    def problems(self) -> Sequence[Problem]:
        """Members that were left out (the first hundred; `listing.counts` has the exact numbers)."""
        return self.listing.problems

    def read(self, position: int) -> RawSample:
        """Read one sample's members, or raise SampleError."""
        listing = self.listing
        if position >= len(listing.keys):
            raise self._missing_error(position)
        first, last = listing.first_member[position], listing.first_member[position + 1]
        suffixes, sizes = listing.suffixes[first:last], listing.sizes[first:last]
        self._check_sizes(listing.keys[position], suffixes, sizes)
        offsets = listing.offsets[first:last]
        span = offsets[-1] + sizes[-1] - offsets[0]
        if span <= _READ_TOGETHER:
            together = self._read_bytes(offsets[0], span)
            starts = (offset - offsets[0] for offset in offsets)
            contents = [together[start : start + size] for start, size in zip(starts, sizes, strict=True)]
        else:
            contents = [self._read_bytes(offset, size) for offset, size in zip(offsets, sizes, strict=True)]
        return RawSample(listing.keys[position], self.name, dict(zip(suffixes, contents, strict=True)))

    def rest(self) -> None:
        """Close the file descriptor until the next read, if the file can be opened again."""
        if self._path is not None:
            self.close()

    def close(self) -> None:
        """Close the file descriptor; an anonymous file is deleted by this."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _missing_error(self, position: int) -> SampleError:
        ending = self.listing.ending
        if ending is not None:
            return SampleError(ending.cause, f"sample {position} lies after the damaged place: {ending.detail}")
        held = f"only {len(self)} sample{'' if len(self) == 1 else 's'}"
        return SampleError(Cause.MISSING, f"the manifest lists sample {position}, but the archive has {held}")

    def _check_sizes(self, key: str, suffixes: Sequence[str], sizes: Sequence[int]) -> None:
        total = sum(sizes)
        if self._max_bytes is not None and total > self._max_bytes:
            raise SampleError(Cause.TOO_MANY_BYTES, f"{key} has {total} bytes, the limit is {self._max_bytes}")
        if total == 0 or any(not size and suffix in _MEDIA for suffix, size in zip(suffixes, sizes, strict=True)):
            raise SampleError(Cause.EMPTY, f"{key}: a media member has zero bytes")

    def _read_bytes(self, offset: int, size: int) -> bytes:
        try:
            if self._descriptor is None:
                if self._path is None:
                    raise SampleError(Cause.SHARD_UNREADABLE, f"{self.name} is closed")
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            content = os.pread(self._descriptor, size, offset)
            while len(content) < size:  # a signal, or a read beyond 2 GiB, returns fewer bytes than requested
                more = os.pread(self._descriptor, size - len(content), offset + len(content))
                if not more:
                    raise SampleError(Cause.SHARD_TRUNCATED, f"{self.name} became shorter while it was read")
                content += more
        except OSError as error:
            raise SampleError(Cause.SHARD_UNREADABLE, f"{self.name}: {error}") from error
        return content


def open_archive(
    root: Root,
    name: str,
    *,
    cache_dir: Path | None = None,
    size: int | None = None,
    sha256: str | None = None,
    max_bytes: int | None = None,
    policy: TransferPolicy | None = None,
    handler: Handler = ignore_and_continue,
) -> Archive:
    """Open a local or remote shard; raise SampleError(SHARD_UNREADABLE) if that fails.

    `size` and `sha256` are the manifest's; transferred files are checked against them.
    """
    shard = open_shard(root, name, cache_dir, size, sha256, policy or TransferPolicy())
    try:
        listing = scan(shard.descriptor, name, handler)
    except OSError as error:
        os.close(shard.descriptor)
        raise SampleError(Cause.SHARD_UNREADABLE, f"{name}: {error}") from error
    except BaseException:
        os.close(shard.descriptor)
        raise
    return Archive(name, listing, shard, max_bytes)
