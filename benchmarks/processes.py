"""Contenders in processes of their own, and the memory of a process.

Libraries of contenders can disturb each other in one process, and a peak of memory belongs to a process. This module
imports no torch, for contenders that must do without.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

from trichord.core.errors import UserError
from trichord.core.processes import initialise_worker

Lap = Callable[..., tuple[float, Any]]  # works on a case; returns seconds and result
_FAILURES = (RuntimeError, ValueError, OSError, ImportError, AttributeError)
_WAIT_S = 5.0


class _Failure(NamedTuple):
    reason: str


class RemoteContender:
    """A contender in its own process, where it is called and timed, one call after another.

    Args:
        name: Its name in error messages.
        make: Called in the process with `arguments`; returns the function to call there.
        context: Starts the process; by default it is a fresh interpreter.
    """

    def __init__(
        self,
        name: str,
        make: Callable[..., Lap],
        *arguments: object,
        context: ForkServerContext | SpawnContext | None = None,
    ) -> None:
        self._name = name
        context = context or get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def lap(self, *question: object) -> tuple[float, Any]:
        """Call the contender; return its seconds and its result."""
        try:
            self._connection.send(question)
            answer = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join(_WAIT_S)
            raise UserError(_ended(self._name, self._process.exitcode)) from error
        if isinstance(answer, _Failure):
            raise UserError(f"the process of {self._name!r} failed: {answer.reason}")
        seconds, result = answer
        return seconds, result

    def __enter__(self) -> RemoteContender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._process.join(_WAIT_S)
        if self._process.is_alive():
            self._process.terminate()


def run_alone(
    name: str,
    module: str,
    *arguments: str,
    beat: Callable[[], None] = lambda: None,
    environment: Mapping[str, str] | None = None,
) -> list[str]:
    """Run a module in a process of its own, on one thread unless `environment` differs; return the lines it prints.

    `beat` is called every second.
    """
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as process:
        try:
            while True:
                try:
                    printed, _ = process.communicate(timeout=1)
                    break
                except subprocess.TimeoutExpired:
                    beat()
        finally:
            process.kill()  # has no effect on a process that has ended
    if process.returncode:
        raise UserError(_ended(name, process.returncode))
    return printed.splitlines()


def memory_mib(field: Literal["VmRSS", "VmHWM", "RssAnon"]) -> float:
    """Return the memory of this process in MiB: resident, its peak so far, or resident without mapped files.

    `resource.getrusage` would count the peak of the process that started this one as well.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def peak_growth_mib(work: Callable[[], object]) -> float:
    """Do the work; return by how much the peak of memory exceeds what the process held before."""
    before_mib = memory_mib("VmRSS")
    work()
    return memory_mib("VmHWM") - before_mib


def _ended(name: str, status: int | None) -> str:
    return f"the process of {name!r} ended with exit status {status}; -9 means that memory ran out"


def _serve(connection: Connection, make: Callable[..., Lap], arguments: tuple[object, ...]) -> None:
    initialise_worker()
    lap = make(*arguments)
    while True:
        try:
            question = connection.recv()
        except EOFError:
            return
        try:
            connection.send(lap(*question))
        except _FAILURES as error:
            connection.send(_Failure(f"{type(error).__name__}: {error}"))
