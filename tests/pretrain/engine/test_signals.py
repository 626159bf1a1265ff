"""Requests to stop a run, their precedence, and warnings that come too early."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from trichord.core.errors import Interrupted
from trichord.pretrain.engine.signals import StopFlag, listening, of_rank, rank_of

TERM, USR1, USR2, INT = signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT


def send(*numbers: signal.Signals) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("sent", "counts"),
    [
        ((), None),
        ((USR2,), USR2),
        ((USR1,), USR1),
        ((TERM,), TERM),
        ((USR2, USR1), USR1),  # a cancellation counts, even near the time limit
        ((USR1, USR2), USR1),
        ((USR2, TERM), TERM),
        ((TERM, USR2), TERM),
    ],
)
def test_strongest_of_several_requests_counts(sent: tuple[signal.Signals, ...], counts: signal.Signals | None) -> None:
    with listening() as stop:
        send(*sent)
        assert stop.received == counts


def test_ranks_with_different_signals_agree_on_the_strongest() -> None:
    numbers = [rank_of(each) for each in (None, USR2, INT, USR1, TERM)]
    assert numbers == sorted(numbers) and numbers[0] == 0
    assert [of_rank(number) for number in numbers] == [None, USR2, INT, USR1, TERM]


def test_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in (TERM, USR1, USR2, INT)]
    with listening() as stop, stop.takes(INT):
        assert [signal.getsignal(number) for number in (TERM, USR1, USR2, INT)] != before
    assert [signal.getsignal(number) for number in (TERM, USR1, USR2, INT)] == before


def test_another_thread_than_the_main_one_runs_without_handlers() -> None:
    before, found = signal.getsignal(TERM), []

    def run() -> None:
        with listening() as stop, stop.takes(INT):
            found.append((stop.received, signal.getsignal(TERM)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(None, before)]


def test_later_listener_sees_earlier_signals() -> None:
    with listening() as outer:
        send(TERM)
        with listening() as inner:
            assert inner is outer and inner.received == TERM
        assert outer.received == TERM
    with listening() as anew:
        assert anew.received is None


def test_first_interrupt_requests_a_stop_and_second_forces_it() -> None:
    with listening() as stop, stop.takes(INT):
        send(INT)
        assert stop.received == INT
        with pytest.raises(KeyboardInterrupt):
            send(INT)


def test_a_deadline_counts_as_the_warning() -> None:
    stop = StopFlag()
    stop.deadline_s = time.monotonic() + 1000
    assert stop.received is None
    stop.deadline_s = time.monotonic() - 1
    assert stop.received == USR2


@pytest.mark.parametrize(
    ("left_s", "is_preempted", "counts"),
    [
        (60.0, False, None),  # SLURM warns up to 90 seconds too early: the deadline is enough
        (60.0, True, USR2),
        (3600.0, False, USR2),  # no time limit is near: another job wants the nodes
    ],
)
def test_warning_shortly_before_the_deadline_counts_only_as_a_preemption(
    left_s: float, is_preempted: bool, counts: signal.Signals | None
) -> None:
    with listening() as stop:
        stop.deadline_s = time.monotonic() + left_s
        stop.is_preempted = lambda: is_preempted
        send(USR2)
        assert stop.received == counts


def test_only_the_deciding_rank_reacts_to_a_warning() -> None:
    with listening() as stop:
        stop.takes_warnings = False
        send(USR2)
        assert stop.received is None
        send(TERM)
        assert stop.received == TERM


def test_work_that_ignores_the_flag_is_interrupted() -> None:
    with listening(interrupts=True), pytest.raises(Interrupted, match="interrupted by SIGUSR2"):
        send(USR2)
        time.sleep(5)


def test_interrupted_work_is_not_interrupted_again_during_cleanup() -> None:
    cleared = False
    with listening(interrupts=True), pytest.raises(Interrupted, match="interrupted by SIGTERM"):
        try:
            send(TERM)
            time.sleep(5)
        finally:
            send(TERM, USR2)
            cleared = True
    assert cleared
