"""Worker processes react only to signals of their parent, and end when it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from tests.shards.processes import descendants, is_alive, seconds_until_gone
from trichord.core.processes import worker_pool

ROOT = Path(__file__).resolve().parents[2]
SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGTERM)


def slow_square(number: int, seconds: float, blob: bytes = b"") -> tuple[int, int]:
    time.sleep(seconds)
    return os.getpid(), number * number


def test_external_signals_do_not_disturb_workers() -> None:
    others = set(descendants(os.getpid()))  # left by earlier tests
    with worker_pool(2) as pool:
        begun = [pool.submit(slow_square, number, 0.0) for number in range(4)]
        workers = {future.result()[0] for future in begun}
        futures = [pool.submit(slow_square, number, 0.2) for number in range(8)]
        everyone = [pid for pid in descendants(os.getpid()) if pid not in others]
        assert workers <= set(everyone)
        for number in SIGNALS:
            for pid in everyone:
                # Sent by another process, as a cluster does: from this one a SIGTERM would count.
                subprocess.run(["kill", f"-{number.value}", str(pid)], check=True)
        assert [future.result()[1] for future in futures] == [number * number for number in range(8)]
        assert all(map(is_alive, everyone))


def test_interruption_ends_workers_without_waiting() -> None:
    workers: set[int] = set()
    begin = 0.0

    def interrupt() -> None:
        nonlocal begin
        with worker_pool(2) as pool:
            workers.update(pool.submit(slow_square, 0, 0.1).result()[0] for _ in range(2))
            for _ in range(20):  # more than a pipe can hold
                pool.submit(slow_square, 1, 60.0, bytes(1_000_000))
            time.sleep(0.3)
            begin = time.monotonic()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert time.monotonic() - begin < 10
    assert workers and seconds_until_gone(sorted(workers), 5) < 5


def test_workers_end_when_their_parent_is_killed() -> None:
    script = """
import os, sys, time
from trichord.core.processes import worker_pool
from tests.core.test_processes import slow_square
if __name__ == "__main__":
    with worker_pool(2) as pool:
        print(pool.submit(slow_square, 0, 0.0).result()[0], flush=True)
        pool.submit(slow_square, 0, 60.0).result()
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        below = descendants(process.pid)
        assert worker in below
        process.send_signal(signal.SIGKILL)
        assert seconds_until_gone(below, 15) < 15


def test_signal_mask_of_this_process_is_restored() -> None:
    heard: list[int] = []
    before = {number: signal.signal(number, lambda number, _: heard.append(number)) for number in SIGNALS}
    try:
        with worker_pool(1) as pool:
            future: Future[tuple[int, int]] = pool.submit(slow_square, 3, 0.0)
            assert future.result()[1] == 9
            for number in SIGNALS:
                os.kill(os.getpid(), number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert heard == list(SIGNALS)
