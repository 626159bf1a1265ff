"""The open archives of a reader: each is opened once, threads fetch remote ones ahead, failures are remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from trichord.core.errors import SampleError
from trichord.shards.reading.archive import Archive, open_archive
from trichord.shards.reading.batch import BadSample
from trichord.shards.reading.order import SampleAddress
from trichord.shards.reading.stream_config import ReadingLimits, ShardSource
from trichord.shards.record import RawSample

_OPEN_FILES = 256  # the limit of a process is often 1024
_FETCHING_THREADS = 4


class ShardId(NamedTuple):
    """A shard, by the numbers of its source and of its place in the source's manifest."""

    source: int
    shard: int


class ArchivePool:
    """Reader of samples by address; not shared between processes."""

    def __init__(self, sources: Sequence[ShardSource], limits: ReadingLimits) -> None:
        self._sources = sources
        self._limits = limits
        self._archives: dict[ShardId, Archive | SampleError] = {}
        self._in_transfer: dict[ShardId, Future[Archive]] = {}
        self._recently_read: OrderedDict[ShardId, Archive] = OrderedDict()
        self._threads: ThreadPoolExecutor | None = None
        self._left_out: list[BadSample] = []
        self._surplus = 0

    def read(self, address: SampleAddress) -> RawSample:
        """Read a sample, or raise SampleError."""
        shard = ShardId(address.source, address.shard)
        archive = self._open(shard)
        self._recently_read[shard] = archive
        self._recently_read.move_to_end(shard)
        if len(self._recently_read) > _OPEN_FILES:
            self._recently_read.popitem(last=False)[1].rest()
        return archive.read(address.index)

    def describe(self, address: SampleAddress) -> tuple[str, str]:
        """Return the names of the shard and the key at an address, as far as they are known."""
        archive = self._archives.get(ShardId(address.source, address.shard))
        name = self._sources[address.source].manifest.shards[address.shard].name
        if isinstance(archive, Archive) and address.index < len(archive):
            return name, archive.keys[address.index]
        return name, f"(sample {address.index})"

    def expect(self, shards: Iterable[ShardId]) -> None:
        """Start to fetch those of these shards that are remote."""
        for shard in shards:
            is_remote = self._sources[shard.source].root.folder is None
            if is_remote and shard not in self._archives and shard not in self._in_transfer:
                if self._threads is None:
                    self._threads = ThreadPoolExecutor(_FETCHING_THREADS, thread_name_prefix="fetch")
                self._in_transfer[shard] = self._threads.submit(self._fetch, shard)

    def keep(self, wanted: set[ShardId]) -> None:
        """Close all archives except these."""
        for shard in [shard for shard in self._archives if shard not in wanted]:
            archive = self._archives.pop(shard)
            self._recently_read.pop(shard, None)
            if isinstance(archive, Archive):
                archive.close()
        for shard in [shard for shard in self._in_transfer if shard not in wanted]:
            transfer = self._in_transfer.pop(shard)
            if not transfer.cancel():
                transfer.add_done_callback(_close_result)

    def take_news(self) -> tuple[list[BadSample], int]:
        """Return the members left out and the number of surplus samples of archives opened since the last call."""
        news = (self._left_out, self._surplus)
        self._left_out, self._surplus = [], 0
        return news

    def close(self) -> None:
        """Close everything."""
        self.keep(set())
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _open(self, shard: ShardId) -> Archive:
        found = self._archives.get(shard)
        if found is None:
            transfer = self._in_transfer.pop(shard, None)
            try:
                found = self._fetch(shard) if transfer is None else transfer.result()
                self._record_findings(shard, found)
            except SampleError as error:
                found = SampleError(error.cause, error.detail)  # without the traceback, which would hold memory
            self._archives[shard] = found
        if isinstance(found, SampleError):
            raise SampleError(found.cause, found.detail)
        return found

    def _fetch(self, shard: ShardId) -> Archive:
        source = self._sources[shard.source]
        entry = source.manifest.shards[shard.shard]
        return open_archive(
            source.root,
            entry.name,
            cache_dir=self._limits.cache_dir,
            size=entry.bytes,
            sha256=entry.sha256,
            max_bytes=self._limits.max_bytes,
            policy=self._limits.policy,
        )

    def _record_findings(self, shard: ShardId, archive: Archive) -> None:
        for problem in archive.problems:
            self._left_out.append(BadSample(archive.name, problem.name, problem.cause, problem.detail))
        listed = self._sources[shard.source].manifest.shards[shard.shard].samples
        self._surplus += max(len(archive) - listed, 0)


def _close_result(transfer: Future[Archive]) -> None:
    if not transfer.cancelled() and transfer.exception() is None:
        transfer.result().close()
