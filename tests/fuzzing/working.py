"""A worker of the fuzzing: it uses mutants one after the other and reports what came of them."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from tests.fuzzing.subjects import SUBJECTS

AT_ONCE = 50  # mutants between two messages
MOST_MIB = 1536


@dataclass
class Found:
    """What came of a batch of mutants: outcomes of each subject, failures, and the longest time."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    mib: int = 0


def work(
    number: int, workers: int, chosen: Sequence[str], seed: int, place: str, end_s: float, messages: Connection
) -> None:
    """Run batches of mutants, of the subjects in turn, until the end of the time.

    Native libraries print to a file that is thrown away.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    own = Path(place) / str(number)
    own.mkdir()
    os.chdir(own)
    tempfile.tempdir = str(own)
    for name in chosen:
        SUBJECTS[name].prepare()
    guard = Guard(place)
    batch = number
    while time.monotonic() < end_s:
        name, first = chosen[batch % len(chosen)], batch // len(chosen) * AT_ONCE
        messages.send((f"{name}:{first}", None))
        messages.send((f"{name}:{first}", use(name, seed, range(first, first + AT_ONCE), guard)))
        batch += workers


def use(name: str, seed: int, numbers: Sequence[int], guard: Guard) -> Found:
    """Use mutants of a subject."""
    subject, found, files = SUBJECTS[name], Found(), set(os.listdir())
    for number in numbers:
        began_s = time.thread_time()
        try:
            outcome = subject.run(seed, number)
        except BaseException:
            outcome = "failed"
            found.failures.append(f"{name}:{number} {traceback.format_exc()}")
        took_s = time.thread_time() - began_s
        found.counts[name, outcome] += 1
        found.longest_s = max(found.longest_s, took_s)
        if took_s > 2 * subject.allowed_s:
            found.failures.append(f"{name}:{number} took {took_s:.1f} s of processor time")
        found.failures += [f"{name}:{number} {what}" for what in guard.seen()]
    if left := set(os.listdir()) - files:
        found.failures.append(f"{name}:{numbers[0]} or a later one left {sorted(left)}")
    found.mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    if found.mib > MOST_MIB:
        found.failures.append(f"{name}:{numbers[0]} or a later one took {found.mib} MiB")
    return found


class Guard:
    """Notes what no input may cause: a program, an unpickled object, a connection, a file outside the worker's place.

    Python's audit events tell most of it; sockets that native code opens are counted.
    """

    def __init__(self, place: str) -> None:
        self.place = os.path.realpath(place) + os.sep
        self.events: list[str] = []
        self.sockets = count_sockets()
        sys.addaudithook(self.note)

    def note(self, event: str, arguments: tuple[object, ...]) -> None:
        """Take an audit event."""
        if event in _FORBIDDEN:
            self.events.append(f"{event}: {arguments!r:.200}")
        elif event == "open" and isinstance(arguments[0], (str, bytes)) and _writes(arguments):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if not path.startswith(self.place) and path != os.devnull:
                self.events.append(f"wrote {path}")
        elif event in _CHANGES and isinstance(arguments[0], (str, bytes)):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if not path.startswith(self.place):
                self.events.append(f"{event} {path}")

    def seen(self) -> list[str]:
        """Return what was noted since the last call."""
        seen, self.events = self.events, []
        if (sockets := count_sockets()) > self.sockets:
            seen.append(f"{sockets - self.sockets} sockets opened")
            self.sockets = sockets
        return seen


_FORBIDDEN = {
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "pickle.find_class",
    "socket.connect",
    "socket.getaddrinfo",
    "subprocess.Popen",
}
_CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate", "shutil.rmtree"}


def _writes(arguments: tuple[object, ...]) -> bool:
    _, mode, flags = arguments
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def count_sockets() -> int:
    """Return how many sockets this process holds open."""
    found = 0
    for path in Path("/proc/self/fd").iterdir():
        try:
            found += os.readlink(path).startswith("socket:")
        except OSError:
            continue
    return found
