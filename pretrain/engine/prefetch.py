"""Prefetching: a thread reads the next batch and copies it to the device while the device processes the current one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import torch

from trichord.shards.reading.batch import Batch
from trichord.shards.reading.stream import BatchStream

_POLL_EVERY_S = 0.2


class Prefetcher(Iterator[Batch]):
    """Iterator over a stream's batches on a device that reads one batch ahead.

    An error while reading is raised by `next` in place of the affected batch.
    """

    def __init__(self, stream: BatchStream, device: torch.device) -> None:
        self.stream, self._device = stream, device
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._ready: queue.Queue[tuple[Batch, Any] | BaseException] = queue.Queue(maxsize=1)
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="prefetcher", daemon=True)
        self._thread.start()

    def __next__(self) -> Batch:
        found = self._ready.get()
        if isinstance(found, BaseException):
            self._is_closed.set()
            raise found
        batch, copied = found
        if copied is not None:
            torch.cuda.current_stream(self._device).wait_event(copied)
            for tensor in batch.tensors():
                tensor.record_stream(torch.cuda.current_stream(self._device))
        return batch

    def close(self) -> None:
        """Stop reading and close the stream."""
        self._is_closed.set()
        self._thread.join()
        self.stream.close()

    def _draw(self) -> None:
        while not self._is_closed.is_set():
            found: tuple[Batch, Any] | BaseException
            try:
                found = self._moved(next(self.stream))
            except BaseException as error:  # any error is passed to the caller
                found = error
            while not self._is_closed.is_set():
                try:
                    self._ready.put(found, timeout=_POLL_EVERY_S)
                    break
                except queue.Full:
                    continue
            if isinstance(found, BaseException):
                return

    def _moved(self, batch: Batch) -> tuple[Batch, Any]:
        if self._device.type == "cpu":
            return batch, None
        with torch.cuda.stream(self._copies):
            moved = batch.to(self._device, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record(self._copies)
        return moved, copied
