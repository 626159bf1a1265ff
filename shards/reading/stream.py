"""The endless stream of training batches: the same global batches for any number of ranks and workers, from any step.

Workers are started as new processes, not forked from one that may have threads, so a script that uses them must guard
its entry point with `if __name__ == "__main__"`.

Each stream counts its samples: shares of sources and of silent clips, bad samples by cause. Too many bad samples stop
the run.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from trichord.core.errors import UserError
from trichord.core.processes import initialise_worker, worker_context
from trichord.shards.decoding.decoders import keep_freed_memory
from trichord.shards.reading.batch import BadSample, Batch, SampleTransform, SharedRing, Stacker, stack_anew
from trichord.shards.reading.order import Order, share_lanes
from trichord.shards.reading.reader import ArchivePool, LaneReader
from trichord.shards.reading.stream_config import ShardSource, StreamConfig

_POLL_EVERY_S = 5.0


class WorkerDied(RuntimeError):
    """Raised when a worker process has died or returns no data."""


@dataclass(frozen=True)
class Failure:
    """A user error that occurred in a worker, sent as a value so that its message arrives without a traceback."""

    message: str


class LaneDataset(IterableDataset[Batch | Failure]):
    """The data set of one worker: the parts of its lanes, step by step."""

    def __init__(
        self,
        config: StreamConfig,
        sources: tuple[ShardSource, ...],
        transform: SampleTransform,
        shares: list[list[int]],
        start_step: int,
    ) -> None:
        self._config, self._sources, self._transform = config, sources, transform
        self._shares, self._start_step = shares, start_step

    def __iter__(self) -> Iterator[Batch | Failure]:
        worker: Any = get_worker_info()
        if worker:
            keep_freed_memory()
        lanes = self._shares[worker.id if worker else 0]
        order = make_order(self._config, self._sources, len(lanes))
        pool = ArchivePool(self._sources, self._config.reading_limits())
        stack = stacker_of(worker, self._config)
        reader = LaneReader(order, pool, self._transform, self._config.seed, lanes)
        try:
            for step in itertools.count(self._start_step):
                yield reader.part(step, stack)
        except UserError as error:
            yield Failure(str(error))
        finally:
            pool.close()


class PartReceiver:
    """Receiver of batches from a data set in this process or from workers; raises WorkerDied if a worker is lost."""

    def __init__(
        self, dataset: IterableDataset[Batch | Failure], config: StreamConfig, rank: int, parts_per_batch: int
    ) -> None:
        self._workers, self._pin_memory, self._parts_per_batch = config.workers, config.pin_memory, parts_per_batch
        if config.pin_memory and not torch.cuda.is_available():
            raise UserError("pin_memory=true needs a CUDA GPU, and none is visible. Set pin_memory=false.")
        self._rank = rank
        self._timeout_s = config.worker_timeout_s
        self._loader: Any = iter(dataset)
        if config.workers:
            self._loader = iter(
                DataLoader(
                    dataset,
                    batch_size=None,
                    num_workers=config.workers,
                    collate_fn=_identity,
                    prefetch_factor=config.prefetch_batches,
                    multiprocessing_context=worker_context(__name__),
                    worker_init_fn=initialise_worker,
                    timeout=_POLL_EVERY_S,
                )
            )

    def next_batch(self) -> Batch:
        """Return the next parts as one batch, or raise StopIteration."""
        parts = [self._next_part() for _ in range(self._parts_per_batch)]
        # Workers reuse their memory, so parts are copied before the next are requested.
        return Batch.cat(parts, self._pin_memory) if self._workers or self._pin_memory else parts[0]

    def _next_part(self) -> Batch:
        waited_s = 0.0
        while True:
            try:
                part: Batch | Failure = next(self._loader)
            except RuntimeError as error:
                if not str(error).startswith("DataLoader "):
                    raise
                # torch checks whether its workers are alive only after a timeout, so use short ones repeatedly.
                waited_s += _POLL_EVERY_S
                if "timed out" not in str(error) or waited_s >= self._timeout_s:
                    raise WorkerDied(self._explain(str(error))) from error
                continue
            if isinstance(part, Failure):
                raise UserError(part.message)
            return part

    def close(self) -> None:
        """Stop the workers, or close the files open in this process."""
        if hasattr(self._loader, "close"):
            self._loader.close()
        self._loader = iter(())

    def _explain(self, message: str) -> str:
        dead = [
            f"worker {i} (exit code {process.exitcode})"
            for i, process in enumerate(getattr(self._loader, "_workers", ()))
            if not process.is_alive()
        ]
        if not dead:
            return f"rank {self._rank}: the data workers return no data: {message}"
        return (
            f"rank {self._rank}: {', '.join(dead)} died while reading. Exit code -9 usually means out of memory (use "
            "fewer workers or a smaller prefetch_batches), -7 that /dev/shm was full, -11 a crash in a decoder."
        )


class BatchStream(Iterator[Batch]):
    """The batches of one rank, in training or in evaluation; `figures()` returns statistics of their samples.

    Close it after use, or use it in a ``with`` statement.
    """

    def __init__(self, parts: PartReceiver, tally: Tally) -> None:
        self._parts, self._tally = parts, tally

    def __next__(self) -> Batch:
        batch = self._parts.next_batch()
        self._tally.add(batch)
        return batch

    def figures(self) -> dict[str, Any]:
        """Return shares of sources and silent clips, and bad samples by cause."""
        return self._tally.figures()

    def close(self) -> None:
        """Stop the workers."""
        self._parts.close()

    def __enter__(self) -> BatchStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def batches(
    config: StreamConfig, transform: SampleTransform, rank: int = 0, world_size: int = 1, start_step: int = 0
) -> BatchStream:
    """Return the endless stream of this rank's parts of the global batches from `start_step` on."""
    shares = share_lanes(config.lanes, rank, world_size, config.workers)
    sources = config.open_sources()
    make_order(config, sources, served_lanes=1)  # to report errors here, before workers start
    dataset = LaneDataset(config, sources, transform, shares, start_step)
    return BatchStream(PartReceiver(dataset, config, rank, parts_per_batch=len(shares)), tally_of(config))


def make_order(config: StreamConfig, sources: tuple[ShardSource, ...], served_lanes: int) -> Order:
    """Build the order of a stream."""
    return Order(
        [source.counts for source in sources],
        [source.weight for source in config.sources],
        seed=config.seed,
        lanes=config.lanes,
        block_shards=config.block_shards,
        batch_size=config.batch_size,
        served_lanes=served_lanes,
    )


def tally_of(config: StreamConfig) -> Tally:
    """Return a new tally for a stream."""
    names = [f"{i}:{source.root}" for i, source in enumerate(config.sources)]
    return Tally(names, config.max_bad_fraction, config.bad_window_samples, config.bad_least_samples)


def stacker_of(worker: object | None, config: StreamConfig) -> Stacker:
    """Return the stacker of batches: in a worker one that uses shared memory."""
    return stack_anew if worker is None else SharedRing(config.prefetch_batches + 1)


def _identity(part: Any) -> Any:
    return part


_LISTED = 20


class TooManyBadSamples(UserError):
    """Raised when the share of bad samples exceeds `max_bad_fraction`."""


class Tally:
    """Running counts over batches; `source_names` are in the order of the stream's sources."""

    def __init__(
        self, source_names: Sequence[str], max_bad_fraction: float, window_samples: int, least_samples: int
    ) -> None:
        self._source_names = source_names
        self._max_bad_fraction = max_bad_fraction
        self._window_samples = window_samples
        self._least_samples = least_samples if max_bad_fraction > 0 else 1
        self._window: deque[tuple[int, list[BadSample]]] = deque()
        self._in_window = 0
        self._samples = self._valid = self._silent = self._surplus = 0
        self._bad: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self._named: set[tuple[str, str]] = set()
        self._per_source: Counter[int] = Counter()

    def add(self, batch: Batch) -> None:
        """Add a batch to the counts; raise TooManyBadSamples above the limit."""
        is_counted = [position >= 0 or is_valid for position, is_valid in _marks(batch)]
        samples = sum(is_counted)
        self._samples += samples
        self._valid += int(batch.valid.sum())
        self._silent += int((batch.valid & ~batch.audio_present).sum())
        self._surplus += batch.surplus
        self._bad.update(each.cause.value for each in batch.bad)
        self._per_source.update(s for s, counted in zip(batch.source, is_counted, strict=True) if counted)
        for each in batch.left_out:
            if (each.shard, each.key) not in self._named:  # a shard is opened once per pass, but its members count once
                self._named.add((each.shard, each.key))
                self._left_out[each.cause.value] += 1
        self._check_window(samples, batch.bad)

    def figures(self) -> dict[str, float | int | dict[str, float] | dict[str, int]]:
        """Return the figures so far."""
        return {
            "samples": self._samples,
            "bad_share": sum(self._bad.values()) / max(self._samples, 1),
            "bad": dict(self._bad),
            "silent_share": self._silent / max(self._valid, 1),
            "source_shares": {
                name: self._per_source[source] / max(self._samples, 1) for source, name in enumerate(self._source_names)
            },
            "members_left_out": dict(self._left_out),
            "samples_beyond_manifest": self._surplus,
        }

    def _check_window(self, samples: int, bad: list[BadSample]) -> None:
        """Raise TooManyBadSamples if the window of recent samples has more than the allowed share of bad ones."""
        self._window.append((samples, bad))
        self._in_window += samples
        while self._in_window - self._window[0][0] >= self._window_samples:
            self._in_window -= self._window.popleft()[0]
        listed = [each for _, some in self._window for each in some]
        if self._in_window < self._least_samples or len(listed) <= self._max_bad_fraction * self._in_window:
            return
        causes = ", ".join(f"{cause} {n}" for cause, n in Counter(each.cause.value for each in listed).most_common())
        lines = "\n".join(f"  {each.shard} {each.key}: {each.cause}: {each.detail}" for each in listed[:_LISTED])
        more = f"\n  and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
        raise TooManyBadSamples(
            f"{len(listed)} of the last {self._in_window} samples could not be used ({causes}); "
            f"max_bad_fraction={self._max_bad_fraction} allows {self._max_bad_fraction * self._in_window:.0f}:\n"
            f"{lines}{more}\nCheck the whole set with: trichord shards verify"
        )


def _marks(batch: Batch) -> list[tuple[int, bool]]:
    return list(zip(batch.position, batch.valid.tolist(), strict=True))
