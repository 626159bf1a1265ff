"""Worker processes that heed nobody but the process that started them, and end when it does.

SLURM sends its signals to every process of a step, a terminal its Ctrl-C to every process of a command. What follows
from a signal is for the starting process to decide, so workers, and the server that they are forked from, have them
blocked from birth. Only SIGTERM is listened for: from the starting process it is what `terminate()` sends.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver, get_context, parent_process, resource_tracker
from multiprocessing.context import ForkServerContext
from threading import Thread
from typing import Any

_LEFT_TO_THE_PARENT = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_LOOK_EVERY_S = 1.0


def worker_context(*preload: str) -> ForkServerContext:
    """Give the way to start workers; each must call `heed_parent_alone` first. `preload` is imported once for all.

    They are forked from a clean server: a codec or thread pool of this process would hang in a plain fork, and a
    spawned interpreter would import everything anew.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    # Blocked signals stay blocked in what is started meanwhile, and those for this process wait until it is over.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_THE_PARENT)
    try:
        resource_tracker.ensure_running()  # which unblocks some of them when it is done
        signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_THE_PARENT)
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


@contextlib.contextmanager
def worker_pool(size: int, *preload: str) -> Iterator[ProcessPoolExecutor]:
    """Give a pool of workers; an interruption does not wait for what they are at, but ends them."""
    pool = ProcessPoolExecutor(size, worker_context(*preload), heed_parent_alone)
    try:
        yield pool
    except BaseException:
        _end(pool)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end(pool: Any) -> None:
    """Do what pools have a method for from Python 3.14 on."""
    for process in list((pool._processes or {}).values()):
        process.terminate()
    manager = pool._executor_manager_thread
    if manager is not None:
        manager.join(_LOOK_EVERY_S)
        if manager.is_alive():  # sending work to those who are gone, before CPython mended its issue 94777
            pool._call_queue._reader.close()


def heed_parent_alone(*_: object) -> None:
    """Begin a worker: from now on it ends when its parent does or says so."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_THE_PARENT)
    Thread(target=_end_with_parent, name="heed-parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    while parent.is_alive():
        told = signal.sigtimedwait({signal.SIGTERM}, _LOOK_EVERY_S)
        if told is not None and told.si_pid == parent.pid:
            break
    os._exit(128 + signal.SIGTERM)
