"""The archives a reader has open: each opened once, remote ones fetched ahead by threads, failures remembered."""

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

_OPEN_FILES = 256  # of a limit that is often 1024 for the process
_FETCHING_THREADS = 4


class ShardId(NamedTuple):
    """Which shard of which source."""

    source: int
    shard: int


class ArchivePool:
    """Reads samples by address; not shared between processes."""

    def __init__(self, sources: Sequence[ShardSource], limits: ReadingLimits) -> None:
        self._sources = sources
        self._limits = limits
        self._archives: dict[ShardId, Archive | SampleError] = {}
        self._coming: dict[ShardId, Future[Archive]] = {}
        self._awake: OrderedDict[ShardId, Archive] = OrderedDict()
        self._threads: ThreadPoolExecutor | None = None
        self._left_out: list[BadSample] = []
        self._surplus = 0

    def read(self, address: SampleAddress) -> RawSample:
        """Read a sample, or raise SampleError."""
        shard = ShardId(address.source, address.shard)
        archive = self._open(shard)
        self._awake[shard] = archive
        self._awake.move_to_end(shard)
        if len(self._awake) > _OPEN_FILES:
            self._awake.popitem(last=False)[1].rest()
        return archive.read(address.index)

    def describe(self, address: SampleAddress) -> tuple[str, str]:
        """Name the shard and the key at an address, as far as they are known."""
        archive = self._archives.get(ShardId(address.source, address.shard))
        name = self._sources[address.source].manifest.shards[address.shard].name
        if isinstance(archive, Archive) and address.index < len(archive):
            return name, archive.keys[address.index]
        return name, f"(sample {address.index})"

    def expect(self, shards: Iterable[ShardId]) -> None:
        """Begin to fetch those of these shards that lie elsewhere."""
        for shard in shards:
            is_remote = self._sources[shard.source].root.folder is None
            if is_remote and shard not in self._archives and shard not in self._coming:
                if self._threads is None:
                    self._threads = ThreadPoolExecutor(_FETCHING_THREADS, thread_name_prefix="fetch")
                self._coming[shard] = self._threads.submit(self._fetch, shard)

    def keep(self, wanted: set[ShardId]) -> None:
        """Close all archives but these."""
        for shard in [shard for shard in self._archives if shard not in wanted]:
            archive = self._archives.pop(shard)
            self._awake.pop(shard, None)
            if isinstance(archive, Archive):
                archive.close()
        for shard in [shard for shard in self._coming if shard not in wanted]:
            coming = self._coming.pop(shard)
            if not coming.cancel():
                coming.add_done_callback(_close_result)

    def take_news(self) -> tuple[list[BadSample], int]:
        """Give what was noticed in archives opened since the last call: members left out, samples in surplus."""
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
            coming = self._coming.pop(shard, None)
            try:
                found = self._fetch(shard) if coming is None else coming.result()
                self._look_over(shard, found)
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

    def _look_over(self, shard: ShardId, archive: Archive) -> None:
        for problem in archive.problems:
            self._left_out.append(BadSample(archive.name, problem.name, problem.cause, problem.detail))
        promised = self._sources[shard.source].manifest.shards[shard.shard].samples
        self._surplus += max(len(archive) - promised, 0)


def _close_result(coming: Future[Archive]) -> None:
    if not coming.cancelled() and coming.exception() is None:
        coming.result().close()
