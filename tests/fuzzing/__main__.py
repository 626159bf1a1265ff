"""Run mutants for some minutes: python -m tests.fuzzing [--minutes M] [--seed S] [--workers N]

A mutant must be used or refused with a cause: any other exception, a crash, a hang, a socket, a file left behind or too
much memory is a failure, which is printed with the number that repeats it: python -m tests.fuzzing --only NUMBER
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection, wait
from pathlib import Path

from tests.fuzzing import media
from tests.fuzzing.working import AT_ONCE, work

_HANGS_AFTER_S = 20 * media.ALLOWED_S  # of wall time, on a machine that may be busy


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", type=int, help="number of one mutant, to repeat it")
    chosen = parser.parse_args()
    if chosen.only is not None:
        print(media.run(chosen.seed, chosen.only))
        return 0
    counts, failures, seconds = Counter[str](), list[str](), [0.0]
    end_s = time.monotonic() + 60 * chosen.minutes
    with tempfile.TemporaryDirectory() as place:
        workers = {start(number, chosen, place, end_s) for number in range(chosen.workers)}
        while workers:
            for worker in list(workers):
                worker.listen(counts, failures, seconds)
                if not worker.process.is_alive():
                    worker.listen(counts, failures, seconds)  # what it sent before its end
                    worker.stop(failures)
                    workers.remove(worker)
            wait([worker.messages for worker in workers], 1.0)
        left = [str(path) for path in Path(place).rglob("*")]
    failures += [f"left behind: {path}" for path in left]
    total = sum(counts.values())
    print(f"{total} mutants of seed {chosen.seed}: {dict(counts.most_common())}; longest {max(seconds):.1f} s")
    for failure in failures:
        print(failure)
    return 1 if failures else 0


class Worker:
    """A process that runs every N-th mutant."""

    def __init__(self, process: multiprocessing.Process, messages: Connection) -> None:
        self.process, self.messages = process, messages
        self.first, self.heard_s = 0, time.monotonic()

    def listen(self, counts: Counter[str], failures: list[str], seconds: list[float]) -> None:
        """Take what it sent; end it if it hangs."""
        while self.messages.poll():
            try:
                self.first, found, failed, longest_s = self.messages.recv()
            except EOFError:
                return
            self.heard_s = time.monotonic()
            counts.update(found)
            failures += failed
            seconds.append(longest_s)
        if time.monotonic() - self.heard_s > _HANGS_AFTER_S:
            failures.append(f"hangs at one of the {AT_ONCE} mutants from {self.first} on")
            self.process.kill()

    def stop(self, failures: list[str]) -> None:
        """Note a crash."""
        if self.process.exitcode:
            failures.append(f"exit status {self.process.exitcode} at one of the mutants from {self.first} on")


def start(number: int, chosen: argparse.Namespace, place: str, end_s: float) -> Worker:
    context = multiprocessing.get_context("spawn")
    messages, ours = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(number, chosen.workers, chosen.seed, place, end_s, ours), daemon=True)
    process.start()
    ours.close()
    return Worker(process, messages)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
