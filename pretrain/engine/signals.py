"""Turns the signals by which clusters and people end a process into a flag that is read between two steps.

SIGTERM, SIGUSR1 and SIGINT ask to save and end; SIGUSR2, the warning that comes before a time limit or a preemption, to
save and go on later in another start of the job. This module imports no torch: a job listens before it loads anything.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from trichord.core.errors import Interrupted

_BY_RANK = (signal.SIGUSR2, signal.SIGINT, signal.SIGUSR1, signal.SIGTERM)  # of several, the later one counts
# SLURM looks at its limits every half minute and may warn another minute early.
_EARLIEST_WARNING_S = 90.0
_listening: StopFlag | None = None


class StopFlag:
    """Where it takes signals, a first one only asks to stop; a second SIGINT interrupts at once, as people expect."""

    def __init__(self, interrupts: bool = False) -> None:
        self.hears_warnings = True  # of a job's ranks one is enough
        self.deadline_s: float | None = None  # of time.monotonic: when to stop, whether warned or not
        self.is_preempted: Callable[[], bool] = lambda: False  # asked when a warning comes shortly before the deadline
        self._interrupts = interrupts
        self._noted: signal.Signals | None = None

    @property
    def received(self) -> signal.Signals | None:
        """What asks to stop; a deadline that is over counts as the warning."""
        if self._noted is None and self.deadline_s is not None and time.monotonic() >= self.deadline_s:
            return signal.SIGUSR2
        return self._noted

    @contextmanager
    def takes(self, *numbers: signal.Signals) -> Iterator[StopFlag]:
        """Take these signals over for the time being."""
        before = {number: signal.signal(number, self._note) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in before.items():
                if signal.getsignal(number) is not signal.SIG_IGN:  # a job that ends ignores its warnings to the last
                    signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        found = signal.Signals(number)
        if found == signal.SIGINT and self._noted == signal.SIGINT:
            raise KeyboardInterrupt
        if found == signal.SIGUSR2 and (not self.hears_warnings or self._is_early()):
            return
        if self._interrupts and self._noted is not None:
            return  # the way out is not to be interrupted: a job that requeues itself is sent SIGTERM for it
        if self._interrupts:
            self._noted = found
            raise Interrupted(found, f"interrupted by {found.name}; what is finished stays")
        if self._noted is None or _BY_RANK.index(found) > _BY_RANK.index(self._noted):
            self._noted = found

    def _is_early(self) -> bool:
        """Know the warning of a time limit: the deadline will say it again, when it is time."""
        if self.deadline_s is None or not 0 < self.deadline_s - time.monotonic() <= _EARLIEST_WARNING_S:
            return False
        return not self.is_preempted()


@contextmanager
def listening(interrupts: bool = False) -> Iterator[StopFlag]:
    """Listen to what a cluster sends, from before anything is loaded; who comes later shares the flag.

    Work that does not look at the flag is interrupted where it is, as by Ctrl-C.
    """
    global _listening
    if _listening is not None:
        yield _listening
        return
    _listening = StopFlag(interrupts)
    try:
        with _listening.takes(signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2) as flag:
            yield flag
    finally:
        _listening = None


def rank_of(found: signal.Signals | None) -> int:
    """Number a signal so that the greatest over all ranks is the one that counts; 0 is none."""
    return 0 if found is None else _BY_RANK.index(found) + 1


def of_rank(number: int) -> signal.Signals | None:
    """Give the signal of a number."""
    return _BY_RANK[number - 1] if number else None
