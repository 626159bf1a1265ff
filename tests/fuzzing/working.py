"""A worker of the fuzzing: it uses mutants one after the other and reports what came of them."""

from __future__ import annotations

import os
import resource
import tempfile
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

from tests.fuzzing import media

AT_ONCE = 50  # mutants between two messages
MOST_MIB = 1536


def work(number: int, workers: int, seed: int, place: str, end_s: float, messages: Connection) -> None:
    """Run mutants until the end of the time; media libraries print to a file that is thrown away."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.chdir(place)
    tempfile.tempdir = place
    media.sources()
    sockets = _sockets()
    first = number * AT_ONCE
    while time.monotonic() < end_s:
        counts, failures, longest_s = Counter[str](), list[str](), 0.0
        for mutant in range(first, first + AT_ONCE):
            try:
                outcome, took_s = media.run(seed, mutant)
                counts[outcome] += 1
                longest_s = max(longest_s, took_s)
                if took_s > 2 * media.ALLOWED_S:
                    failures.append(f"{mutant}: {took_s:.1f} s of processor time")
            except BaseException:
                counts["failed"] += 1
                failures.append(f"{mutant}: {traceback.format_exc()}")
            if _sockets() != sockets:
                failures.append(f"{mutant}: opened a socket")
            if (mib := resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10) > MOST_MIB:
                failures.append(f"{mutant}: or one before it took {mib} MiB")
        first += workers * AT_ONCE
        messages.send((first, counts, failures, longest_s))


def _sockets() -> int:
    found = 0
    for path in Path("/proc/self/fd").iterdir():
        try:
            found += os.readlink(path).startswith("socket:")
        except OSError:
            continue
    return found
