"""What runs in a cluster's job, once on each rank: one command of trichord, and what to do when the cluster ends it.

A warning (SIGUSR2: the time limit is near, or another job wants the nodes) makes all ranks save together at the end of
their step; then rank 0 alone puts the job back into the queue. SIGTERM saves too, but leaves it to SLURM whether the
job comes back: scancel sends it as well as a requeue from outside. submitit's own way, one rank that saves inside its
signal handler while the others go on, could not save what is spread over ranks.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from trichord.core.errors import Interrupted, RunStopped, UserError
from trichord.launch import slurm, verbs
from trichord.launch.history import Ended, How, RankError, Started, error_path, now_s, read_history, write_event
from trichord.pretrain.engine.run_lock import this_job
from trichord.pretrain.engine.signals import StopFlag, listening

_TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
_LOCAL_AGAIN = 144  # at which submitit's controller on one machine starts its processes anew
_REQUEUE_S = 60.0


@dataclass(frozen=True)
class Work:
    """A command, and the run's folder where its story is told."""

    words: Sequence[str]
    run: Path
    saves_when_told: bool
    max_restarts: int
    warning_s: float  # before the job's end

    def __call__(self) -> None:
        """Run the command; how it ends is for the history and the process's exit status to say."""
        rank, job_id = _rank(), this_job()[0] or f"process {os.getpid()}"
        error_path(self.run, job_id, rank).unlink(missing_ok=True)
        restarts = self._restarts(job_id)
        with listening(interrupts=not self.saves_when_told) as stop:
            stop.hears_warnings = rank == 0  # all ranks are warned, one decides
            try:
                try:
                    if rank == 0:
                        self._begin(job_id, restarts, stop)
                    self._run()
                finally:
                    _ignore_warnings()
            except Interrupted as interruption:
                # A cancellation that comes while all save for a warning stands: nobody types it a second time.
                number = signal.SIGUSR1 if stop.received == signal.SIGUSR1 else interruption.signal_number
                if rank == 0:
                    print(interruption, file=sys.stderr, flush=True)
                self._interrupted(job_id, rank, restarts, number)
                return
            except (UserError, RunStopped) as error:
                self._failed(job_id, rank, restarts, str(error), "")
                sys.exit(f"error: {error}")
            except BaseException as error:
                last = traceback.format_exception_only(error)[-1].strip()
                self._failed(job_id, rank, restarts, last, traceback.format_exc())
                raise
            if rank == 0:
                self._end(job_id, restarts, "finished")

    def _run(self) -> None:
        status = verbs.run(self.words)
        if status:
            raise RunStopped(f"trichord {' '.join(self.words)} ended with status {status}; its log says why")

    def _begin(self, job_id: str, restarts: int, stop: StopFlag) -> None:
        """Tell that it begins, and how long there is; a job that began too often ends here."""
        why = self._why(job_id, restarts)
        nodes = os.environ.get("SLURM_JOB_NODELIST") or socket.gethostname()
        write_event(
            self.run,
            Started(time_s=now_s(), job_id=job_id, restarts=restarts, why=why, nodes=nodes, pid=os.getpid()),
        )
        if restarts > self.max_restarts:
            raise RunStopped(
                f"this job began {restarts} times again, more than max_restarts={self.max_restarts}; the last time "
                f"because: {why}. When that is mended, launch it again: it goes on where it was"
            )
        if restarts:
            print(f"start {restarts + 1} of job {job_id}, because: {why}", file=sys.stderr, flush=True)
        self._heed_the_clock(stop)

    def _heed_the_clock(self, stop: StopFlag) -> None:
        """Know the end of the job: SLURM's own warning may come a minute and a half early, which short jobs need."""
        number = os.environ.get("SLURM_JOB_ID")
        if number is None:
            return
        try:
            left_s = slurm.seconds_left(number)
        except slurm.NoAnswer as error:
            print(f"warning: the job's time limit is not known, SLURM's warning will do: {error}", file=sys.stderr)
            return
        if left_s is not None and self.saves_when_told:
            stop.deadline_s = time.monotonic() + max(
                left_s - self.warning_s, left_s / 2
            )  # a partition's default may be short
            stop.is_preempted = lambda: _is_preempted(number)
        if _is_preempted(number):
            os.kill(os.getpid(), signal.SIGUSR2)  # the warning came before anything could listen

    def _restarts(self, job_id: str) -> int:
        if "SLURM_JOB_ID" in os.environ:
            return this_job()[1]
        return sum(isinstance(event, Started) and event.job_id == job_id for event in read_history(self.run))

    def _why(self, job_id: str, restarts: int) -> str:
        """Say why the job begins: of a start before that left no word SLURM may know more."""
        if not restarts:
            return "submitted"
        for event in reversed(read_history(self.run)):
            if isinstance(event, Ended) and (event.job_id, event.restarts) == (job_id, restarts - 1):
                return event.why
        try:
            state = slurm.former_end(job_id)
        except slurm.NoAnswer:
            state = None
        return (
            f"{state or 'killed'}: the start before left no word, so its node failed, or it ran out of memory or time"
        )

    def _interrupted(self, job_id: str, rank: int, restarts: int, number: int) -> None:
        """End in good order. Ranks but the first just leave: one that failed would take the first down with it."""
        if rank:
            return
        if number == signal.SIGUSR2:
            self._again(job_id, restarts)
        elif number == signal.SIGUSR1:
            self._end(job_id, restarts, "stopped", "it was told to save and end (SIGUSR1, as trichord cancel does)")
        else:
            name = signal.Signals(number).name
            self._end(job_id, restarts, "stopped", f"{name}: cancelled, requeued from outside, or preempted")
            sys.exit(_TRY_AGAIN)

    def _again(self, job_id: str, restarts: int) -> NoReturn:
        number, why = os.environ.get("SLURM_JOB_ID"), "the time limit was near"
        if number is not None and _is_preempted(number):
            why = "another job preempted it"
        if restarts >= self.max_restarts:
            why += f"; it began {restarts} times again, and max_restarts={self.max_restarts}"
            self._end(job_id, restarts, "stopped", why)
            sys.exit(_TRY_AGAIN)
        if number is None and "SUBMITIT_LOCAL_JOB_ID" in os.environ:
            self._end(job_id, restarts, "requeued", why)
            sys.exit(_LOCAL_AGAIN)
        if number is None:
            self._end(job_id, restarts, "stopped", why)
            sys.exit(_TRY_AGAIN)
        self._end(job_id, restarts, "requeued", why)  # before it is: what follows may be cut short
        try:
            subprocess.run(["scontrol", "requeue", number], check=True, timeout=_REQUEUE_S)
        except (OSError, subprocess.SubprocessError) as error:
            self._end(job_id, restarts, "stopped", f"{why}, and it could not be requeued: {error}")
            sys.exit(f"error: the job could not be requeued: {error}. All is saved: launch it again to go on")
        sys.exit(0)

    def _end(self, job_id: str, restarts: int, how: How, why: str = "") -> None:
        write_event(self.run, Ended(time_s=now_s(), job_id=job_id, restarts=restarts, how=how, why=why))

    def _failed(self, job_id: str, rank: int, restarts: int, message: str, text: str) -> None:
        found = RankError(time_s=now_s(), rank=rank, restarts=restarts, message=message, traceback=text)
        error_path(self.run, job_id, rank).write_text(found.model_dump_json() + "\n", encoding="utf-8")
        if rank == 0:
            self._end(job_id, restarts, "failed", message.partition("\n")[0])


def _ignore_warnings() -> None:
    """Ignore from here on what asks to save and end: the process ends anyway, and is not to fail on its last steps.

    Python's own handlers are gone before the process is, which the signal would then kill.
    """
    if this_job()[0] is not None:  # else this is the process in which somebody typed the command
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)


def _rank() -> int:
    return int(os.environ.get("SLURM_PROCID") or os.environ.get("SUBMITIT_LOCAL_GLOBALID") or 0)


def _is_preempted(number: str) -> bool:
    """Ask whether the nodes are wanted from this start of the job: SLURM may remember an earlier preemption."""
    try:
        job = slurm.show(number)
    except slurm.NoAnswer:
        return False
    preempted = job.get("PreemptTime", "None")
    return preempted != "None" and preempted >= job.get("StartTime", "")
