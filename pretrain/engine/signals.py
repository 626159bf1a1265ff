"""Conversion of the signals that end a process into a flag that is read between two steps.

SIGTERM, SIGUSR1 and SIGINT request to save and end; SIGUSR2, the warning before a time limit or a preemption, to save
and continue in a later start of the job. This module does not import torch: handlers are installed before any loading.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from trichord.core.errors import Interrupted

# Ascending priority: of several signals, the last in this order counts.
_BY_RANK = (signal.SIGUSR2, signal.SIGINT, signal.SIGUSR1, signal.SIGTERM)
# SLURM checks time limits every half minute and may warn up to another minute early.
_EARLIEST_WARNING_S = 90.0
_active: StopFlag | None = None


class StopFlag:
    """Flag set by signals. The first one only requests a stop; a second SIGINT interrupts at once."""

    def __init__(self, interrupts: bool = False) -> None:
        self.takes_warnings = True  # one rank of a job is enough
        self.deadline_s: float | None = None  # in time.monotonic: when to stop, with or without a warning
        self.is_preempted: Callable[[], bool] = lambda: False  # called when a warning comes shortly before the deadline
        self._interrupts = interrupts
        self._noted: signal.Signals | None = None

    @property
    def received(self) -> signal.Signals | None:
        """The signal that requests a stop, or None; a passed deadline counts as the warning SIGUSR2."""
        if self._noted is None and self.deadline_s is not None and time.monotonic() >= self.deadline_s:
            return signal.SIGUSR2
        return self._noted

    @contextmanager
    def takes(self, *numbers: signal.Signals) -> Iterator[StopFlag]:
        """Handle these signals while the context is active, if this is the main thread, the only one that can."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._note) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in before.items():
                if signal.getsignal(number) is not signal.SIG_IGN:  # a job that ends keeps ignoring warnings
                    signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        found = signal.Signals(number)
        if found == signal.SIGINT and self._noted == signal.SIGINT:
            raise KeyboardInterrupt
        if found == signal.SIGUSR2 and (not self.takes_warnings or self._is_early()):
            return
        if self._interrupts and self._noted is not None:
            return  # shutdown must not be interrupted: a job that requeues itself receives SIGTERM
        if self._interrupts:
            self._noted = found
            raise Interrupted(found, f"interrupted by {found.name}; finished work is kept")
        if self._noted is None or _BY_RANK.index(found) > _BY_RANK.index(self._noted):
            self._noted = found

    def _is_early(self) -> bool:
        """Return whether this is the early warning of a time limit, which the deadline will repeat when it is due."""
        if self.deadline_s is None or not 0 < self.deadline_s - time.monotonic() <= _EARLIEST_WARNING_S:
            return False
        return not self.is_preempted()


@contextmanager
def listening(interrupts: bool = False) -> Iterator[StopFlag]:
    """Handle a cluster's signals; entered before anything is loaded, nested contexts share the same flag.

    With `interrupts`, for work that does not read the flag, a signal raises Interrupted at once, like Ctrl-C.
    """
    global _active
    if _active is not None:
        yield _active
        return
    _active = StopFlag(interrupts)
    try:
        with _active.takes(signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2) as flag:
            yield flag
    finally:
        _active = None


def rank_of(found: signal.Signals | None) -> int:
    """Return a signal's number, whose maximum over ranks is the signal that counts; 0 is none."""
    return 0 if found is None else _BY_RANK.index(found) + 1


def of_rank(number: int) -> signal.Signals | None:
    """Return the signal of a number from `rank_of`."""
    return _BY_RANK[number - 1] if number else None
