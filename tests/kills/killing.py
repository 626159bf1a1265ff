"""Run commands in forked children, kill them, and compare what they leave with what an undisturbed one writes."""

from __future__ import annotations

import importlib
import os
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.kills import works as works_of
from tests.kills.works import Work

_CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
_WAYS = ("size", "call", "time")
_MOST_TRIES = 100


class Killer:
    """Kills works one after the other; counts by the way they were killed."""

    def __init__(self, place: Path, seed: int) -> None:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        for module in ("deepspeed", "trichord.launch.cli", "trichord.pretrain.engine.run"):
            importlib.import_module(module)  # seconds, once, and not in every child
        self._place, self._seed = place, seed
        self._inputs = place / "inputs"
        self._inputs.mkdir()
        self._must(lambda: works_of.prepare(self._inputs))
        self.works = works_of.works(self._inputs)
        self.kills, self.failures = Counter[tuple[str, str]](), list[str]()

    def kill(self, name: str, times: int) -> None:
        """Kill a work at least this often, and let it complete at last; end at the first failure."""
        work, folder = self.works[name], self._place / name
        rng = np.random.default_rng([self._seed, sorted(self.works).index(name)])
        most, expected = self._undisturbed(work, folder)
        failures = len(self.failures)
        while self._of(name) < times and len(self.failures) == failures:
            work.begin(self._inputs, folder)
            for attempt in range(_MOST_TRIES):
                how = _WAYS[int(rng.integers(3))] if self._of(name) < times else ""
                code = self._attempt(work, folder, how, _draw(rng, how, most, attempt))
                if code < 0:
                    self.kills[name, how] += 1
                elif code == 0 or how != "size":  # a command whose workers are killed reports it, and is repeated
                    break
            if code and not work.may_refuse:
                self.failures.append(f"{name}: exit status {code}: {self._log()}")
            self._compare(name, work.compare(folder), expected)

    def _undisturbed(self, work: Work, folder: Path) -> tuple[dict[str, float], Mapping[str, Any]]:
        """Run a work to its end; return the largest size of a file, the changes and the seconds, and the output."""
        work.begin(self._inputs, folder)
        changes, began_s = self._place / "changes", time.monotonic()
        self._must(lambda: _command(work, folder, lambda: _at_change(folder, 0, changes)))
        seconds = time.monotonic() - began_s
        largest = max(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return {"size": largest, "call": int(changes.read_text()), "time": seconds}, work.compare(folder)

    def line(self, name: str) -> str:
        """Return a work's counts as text."""
        ways = ", ".join(f"{self.kills[name, how]} by {how}" for how in _WAYS)
        return f"{name}: {self._of(name)} kills ({ways})"

    def _of(self, name: str) -> int:
        return sum(count for (of, _), count in self.kills.items() if of == name)

    def _attempt(self, work: Work, folder: Path, how: str, at: float) -> int:
        def prepare() -> None:
            if how == "size":
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_FSIZE, (int(at), int(at)))
            if how == "call":
                _at_change(folder, int(at), None)

        child = self._fork(lambda: _command(work, folder, prepare))
        if how == "time":
            time.sleep(at)
            os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _compare(self, name: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        left, missing = sorted(found.keys() - expected.keys()), sorted(expected.keys() - found.keys())
        other = sorted(path for path in found.keys() & expected.keys() if found[path] != expected[path])
        for what, paths in (("left behind", left), ("missing", missing), ("different", other)):
            if paths:
                self.failures.append(f"{name}: {what}: {', '.join(paths)}")

    def _must(self, function: Callable[[], object]) -> None:
        child = self._fork(function)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            raise RuntimeError(f"an undisturbed command failed: {self._log()}")

    def _log(self) -> str:
        return (self._place / "log").read_text()[-2000:]

    def _fork(self, function: Callable[[], object]) -> int:
        """Run a function in a child that prints to a log; return its process id."""
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            log = os.open(self._place / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1), os.dup2(log, 2)
            code = int(function() or 0)  # type: ignore[call-overload]
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)


def _draw(rng: np.random.Generator, how: str, most: Mapping[str, float], attempt: int) -> float:
    if how == "size":
        return float(most["size"] ** rng.uniform(0.2, 1))
    if how == "call":
        return float(rng.integers(1, int(most["call"]) + 1))
    # Increasingly longer, so that a work completes although it is killed.
    return float(rng.uniform(0, most.get(how, 0.0) * 1.05**attempt))


def _command(work: Work, folder: Path, prepare: Callable[[], None]) -> int:
    import torch

    from trichord.launch import cli
    from trichord.pretrain.engine import run_lock

    torch.set_num_threads(1)
    run_lock._SETTLE_S = 0.01  # no other process uses the folder of a killed one
    os.chdir(folder)
    prepare()
    return cli.main(list(work.words))


def _at_change(folder: Path, wanted: int, count_to: Path | None) -> None:
    """Kill this process at a change of a file in the folder, or count all changes to a file."""
    place, counted = os.path.realpath(folder), [0]

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _CHANGES or not isinstance(arguments[0], (str, bytes, os.PathLike)):
            return
        if event == "open" and not _writes(arguments):
            return
        if not os.path.abspath(os.fsdecode(arguments[0])).startswith(place):
            return
        counted[0] += 1
        if counted[0] == wanted:
            os.kill(os.getpid(), signal.SIGKILL)
        if count_to is not None:
            descriptor = os.open(count_to, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.write(descriptor, str(counted[0]).encode())
            os.close(descriptor)

    sys.addaudithook(note)


def _writes(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
