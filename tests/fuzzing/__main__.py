"""Run mutants for some minutes: python -m tests.fuzzing [--minutes M] [--seed S] [--workers N] [--subjects "NAME …"]

A mutant must be used or refused with a cause: any other exception, a crash, a hang, a program or connection that it
starts, a file elsewhere or too much memory is a failure. It is printed with the name that repeats it:
python -m tests.fuzzing --only media:1234
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from multiprocessing.connection import wait

from tests.fuzzing.subjects import SUBJECTS
from tests.fuzzing.working import AT_ONCE, Found, work

_HANGS_AFTER_S = 120.0  # without a batch of mutants; of wall time, on a machine that may be busy


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--subjects", default=" ".join(SUBJECTS), help="what is damaged (default: %(default)s)")
    parser.add_argument("--only", help="repeat one mutant, as media:1234")
    chosen = parser.parse_args()
    names = chosen.subjects.split()
    if unknown := set(names) - set(SUBJECTS):
        parser.error(f"unknown subjects: {', '.join(sorted(unknown))}; there are {', '.join(SUBJECTS)}")
    with tempfile.TemporaryDirectory() as place:
        if chosen.only is not None:
            return repeat(chosen.only, chosen.seed, place)
        found = run_workers(names, chosen, place)
    report(found, chosen.seed)
    return 1 if found.failures else 0


def repeat(only: str, seed: int, place: str) -> int:
    name, _, number = only.partition(":")
    os.chdir(place)
    tempfile.tempdir = place
    SUBJECTS[name].prepare()
    print(SUBJECTS[name].run(seed, int(number)))
    return 0


def run_workers(names: list[str], chosen: argparse.Namespace, place: str) -> Found:
    """Let the workers run to the end of the time, and add up what they found."""
    found = Found()
    end_s = time.monotonic() + 60 * chosen.minutes
    workers = {Worker(number, names, chosen, place, end_s) for number in range(chosen.workers)}
    while workers:
        for worker in list(workers):
            worker.listen(found)
            if not worker.process.is_alive():
                worker.listen(found)  # what it sent before its end
                worker.stop(found)
                workers.remove(worker)
        wait([worker.messages for worker in workers], 1.0)
    return found


def report(found: Found, seed: int) -> None:
    for name in sorted({name for name, _ in found.counts}):
        outcomes = {outcome: count for (subject, outcome), count in found.counts.most_common() if subject == name}
        listed = ", ".join(f"{outcome} {count}" for outcome, count in outcomes.items())
        print(f"{name}: {sum(outcomes.values())} mutants of seed {seed}: {listed}")
    print(f"{len(found.failures)} failures; longest {found.longest_s:.1f} s; at most {found.mib} MiB")
    for failure in found.failures:
        print(failure)


class Worker:
    """A process that runs every N-th batch."""

    def __init__(self, number: int, names: list[str], chosen: argparse.Namespace, place: str, end_s: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.messages, ours = context.Pipe(duplex=False)
        words = (number, chosen.workers, names, chosen.seed, place, end_s, ours)
        self.process = context.Process(target=work, args=words, daemon=True)
        self.process.start()
        ours.close()
        self.batch, self.heard_s = "the start", time.monotonic()

    def listen(self, found: Found) -> None:
        """Take what it sent; end it if it hangs."""
        while self.messages.poll():
            try:
                self.batch, more = self.messages.recv()
            except EOFError:
                return
            self.heard_s = time.monotonic()
            if more is not None:
                found.counts += more.counts
                found.failures += more.failures
                found.longest_s, found.mib = max(found.longest_s, more.longest_s), max(found.mib, more.mib)
        if time.monotonic() - self.heard_s > _HANGS_AFTER_S:
            found.failures.append(f"hangs at one of the {AT_ONCE} mutants from {self.batch} on")
            self.process.kill()

    def stop(self, found: Found) -> None:
        """Note a crash."""
        if self.process.exitcode:
            found.failures.append(f"exit status {self.process.exitcode} at one of the mutants from {self.batch} on")


if __name__ == "__main__":
    sys.exit(main())
