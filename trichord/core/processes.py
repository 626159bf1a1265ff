"""Worker processes that react only to signals of their parent, and end when it ends.

SLURM sends its signals to every process of a step, and a terminal sends Ctrl-C to every process of a command. Only the
parent decides how to react, so workers, and the fork server that they come from, start with these signals blocked.
Workers wait for SIGTERM only, and obey it if it comes from the parent, whose `terminate()` sends it.
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

_HANDLED_BY_PARENT = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_CHECK_EVERY_S = 1.0


def worker_context(*preload: str) -> ForkServerContext:
    """Return the context for starting workers; each must call `initialise_worker` first. `preload` is imported once.

    Workers are forked from a clean server: a codec or thread pool of this process would hang in a plain fork, and a
    spawned interpreter would import everything again.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    # Processes that are started meanwhile inherit the blocked signals; those sent to this process stay pending.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED_BY_PARENT)
    try:
        resource_tracker.ensure_running()  # this unblocks some of them
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED_BY_PARENT)
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


@contextlib.contextmanager
def worker_pool(size: int, *preload: str) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of workers; on an exception, end them without waiting for their work."""
    pool = ProcessPoolExecutor(size, worker_context(*preload), initialise_worker)
    try:
        yield pool
    except BaseException:
        _end(pool)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end(pool: Any) -> None:
    """Terminate the workers of a pool; pools have a method for this from Python 3.14 on."""
    for process in list((pool._processes or {}).values()):
        process.terminate()
    manager = pool._executor_manager_thread
    if manager is not None:
        manager.join(_CHECK_EVERY_S)
        if manager.is_alive():  # it still sends work to ended workers: CPython issue 94777, fixed in later versions
            pool._call_queue._reader.close()


def initialise_worker(*_: object) -> None:
    """Initialise a worker: block the signals, and end it when its parent ends or terminates it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED_BY_PARENT)
    Thread(target=_end_with_parent, name="follow-parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    while parent.is_alive():
        received = signal.sigtimedwait({signal.SIGTERM}, _CHECK_EVERY_S)
        if received is not None and received.si_pid == parent.pid:
            break
    os._exit(128 + signal.SIGTERM)
