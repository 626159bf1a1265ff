"""The work of a cluster job, run on each rank: one trichord command, and what to do when the cluster ends the job.

A warning (SIGUSR2: the time limit is near, or another job preempts this one) makes all ranks save together at the end
of their step; then rank 0 alone requeues the job. SIGTERM also saves, but leaves it to SLURM whether the job is
requeued: both scancel and an external requeue send it. submitit's own method, in which one rank saves inside its signal
handler while the others continue, could not save state that is sharded over ranks.
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

from trichord.core.command import command_line
from trichord.core.console import counted
from trichord.core.errors import Interrupted, RunStopped, UserError
from trichord.launch import commands, slurm
from trichord.launch.history import Ended, How, RankError, Started, error_path, now_s, read_history, write_event
from trichord.pretrain.engine.run_lock import this_job
from trichord.pretrain.engine.signals import StopFlag, listening

_TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
_LOCAL_RESTART = 144  # the exit status at which submitit's local controller restarts its processes
_REQUEUE_S = 60.0


@dataclass(frozen=True)
class JobCommand:
    """A command, and the run's folder, in which its history is written."""

    words: Sequence[str]
    run: Path
    saves_on_signal: bool
    max_restarts: int
    warning_s: float  # before the job's end

    def __call__(self) -> None:
        """Run the command; its end is reported by the history and the exit status of the process."""
        rank, job_id = _rank(), this_job()[0] or f"process {os.getpid()}"
        error_path(self.run, job_id, rank).unlink(missing_ok=True)
        restarts = self._restarts(job_id)
        with listening(interrupts=not self.saves_on_signal) as stop:
            stop.takes_warnings = rank == 0  # all ranks are warned, rank 0 decides
            try:
                try:
                    if rank == 0:
                        self._begin(job_id, restarts, stop)
                    self._run()
                finally:
                    _ignore_warnings()
            except Interrupted as interruption:
                # A cancellation that arrives while ranks save for a warning takes precedence: it is not sent twice.
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
        status = commands.run_job_command(self.words)
        if status:
            raise RunStopped(f"{command_line(*self.words)} ended with status {status}; see its log for the reason")

    def _begin(self, job_id: str, restarts: int, stop: StopFlag) -> None:
        """Record the start and set the deadline; raise RunStopped if the job was restarted too often."""
        why = self._why(job_id, restarts)
        nodes = os.environ.get("SLURM_JOB_NODELIST") or socket.gethostname()
        write_event(
            self.run,
            Started(time_s=now_s(), job_id=job_id, restarts=restarts, why=why, nodes=nodes, pid=os.getpid()),
        )
        if restarts > self.max_restarts:
            raise RunStopped(
                f"this job was restarted {counted(restarts, 'time')}, more than "
                f"max_restarts={self.max_restarts}; the last time because: {why}. When that is fixed, launch it again: "
                "it resumes from its last checkpoint"
            )
        if restarts:
            print(f"start {restarts + 1} of job {job_id}, because: {why}", file=sys.stderr, flush=True)
        self._set_deadline(stop)

    def _set_deadline(self, stop: StopFlag) -> None:
        """Set the deadline from the job's time limit: SLURM may warn 90 s early, time that short jobs need."""
        number = os.environ.get("SLURM_JOB_ID")
        if number is None:
            return
        try:
            left_s = slurm.seconds_left(number)
        except slurm.NoAnswer as error:
            print(f"warning: the job's time limit is unknown; relying on SLURM's warning: {error}", file=sys.stderr)
            return
        if left_s is not None and self.saves_on_signal:
            stop.deadline_s = time.monotonic() + max(
                left_s - self.warning_s, left_s / 2
            )  # a partition's default may be short
            stop.is_preempted = lambda: _is_preempted(number)
        if _is_preempted(number):
            os.kill(os.getpid(), signal.SIGUSR2)  # the warning came before the handler was installed

    def _restarts(self, job_id: str) -> int:
        if "SLURM_JOB_ID" in os.environ:
            return this_job()[1]
        return sum(isinstance(event, Started) and event.job_id == job_id for event in read_history(self.run))

    def _why(self, job_id: str, restarts: int) -> str:
        """Return why the job starts; if the previous start recorded no end, ask SLURM."""
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
            f"{state or 'killed'}: the previous start recorded no end: its node failed, or it ran out of memory or time"
        )

    def _interrupted(self, job_id: str, rank: int, restarts: int, number: int) -> None:
        """End in an orderly way. Ranks other than 0 only return: a failing rank would end rank 0 too."""
        if rank:
            return
        if number == signal.SIGUSR2:
            self._requeue(job_id, restarts)
        elif number == signal.SIGUSR1:
            self._end(job_id, restarts, "stopped", "it was asked to save and end (SIGUSR1, as sent by trichord cancel)")
        else:
            name = signal.Signals(number).name
            self._end(job_id, restarts, "stopped", f"{name}: cancelled, requeued externally, or preempted")
            sys.exit(_TRY_AGAIN)

    def _requeue(self, job_id: str, restarts: int) -> NoReturn:
        number, why = os.environ.get("SLURM_JOB_ID"), "the time limit was near"
        if number is not None and _is_preempted(number):
            why = "another job preempted it"
        if restarts >= self.max_restarts:
            why += f"; restarts: {restarts}, max_restarts={self.max_restarts}"
            self._end(job_id, restarts, "stopped", why)
            sys.exit(_TRY_AGAIN)
        if number is None and "SUBMITIT_LOCAL_JOB_ID" in os.environ:
            self._end(job_id, restarts, "requeued", why)
            sys.exit(_LOCAL_RESTART)
        if number is None:
            self._end(job_id, restarts, "stopped", why)
            sys.exit(_TRY_AGAIN)
        self._end(job_id, restarts, "requeued", why)  # before the requeue, which may end this process
        try:
            subprocess.run(["scontrol", "requeue", number], check=True, timeout=_REQUEUE_S)
        except (OSError, subprocess.SubprocessError) as error:
            self._end(job_id, restarts, "stopped", f"{why}, and it could not be requeued: {error}")
            sys.exit(f"error: the job could not be requeued: {error}. Everything is saved: launch it again to resume")
        sys.exit(0)

    def _end(self, job_id: str, restarts: int, how: How, why: str = "") -> None:
        write_event(self.run, Ended(time_s=now_s(), job_id=job_id, restarts=restarts, how=how, why=why))

    def _failed(self, job_id: str, rank: int, restarts: int, message: str, text: str) -> None:
        found = RankError(time_s=now_s(), rank=rank, restarts=restarts, message=message, traceback=text)
        error_path(self.run, job_id, rank).write_text(found.model_dump_json() + "\n", encoding="utf-8")
        if rank == 0:
            self._end(job_id, restarts, "failed", message.partition("\n")[0])


def _ignore_warnings() -> None:
    """Ignore further requests to save and end: the process ends anyway and must not fail while exiting.

    Python removes its handlers before the process ends, and a signal would then kill it.
    """
    if this_job()[0] is not None:  # otherwise this is the user's own process
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)


def _rank() -> int:
    return int(os.environ.get("SLURM_PROCID") or os.environ.get("SUBMITIT_LOCAL_GLOBALID") or 0)


def _is_preempted(number: str) -> bool:
    """Return whether this start of the job is being preempted: SLURM may still report an earlier preemption."""
    try:
        job = slurm.show(number)
    except slurm.NoAnswer:
        return False
    preempted = job.get("PreemptTime", "None")
    return preempted != "None" and preempted >= job.get("StartTime", "")
