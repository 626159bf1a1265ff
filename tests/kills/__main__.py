"""Kill commands at any moment and repeat them: python -m tests.kills [--kills N] [--seed S] [--works "NAME …"]

A third is killed by the system in the middle of a write, at a file size drawn at random; a third at a call that opens,
renames or deletes a file; a third after a random time. Each is repeated until it completes. Its output must then be
byte for byte that of an undisturbed command, with nothing left behind.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.kills.killing import Killer
from tests.kills.works import works


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    names = " ".join(works(Path()))
    parser.add_argument("--works", default=names, help="what is killed (default: %(default)s)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        killer = Killer(Path(place), chosen.seed)
        of_each = -(-chosen.kills // len(chosen.works.split()))
        for name in chosen.works.split():
            killer.kill(name, of_each)
            print(killer.line(name), flush=True)
    print(f"{sum(killer.kills.values())} kills, {len(killer.failures)} failures")
    print("\n".join(killer.failures))
    return 1 if killer.failures else 0


if __name__ == "__main__":
    sys.exit(main())
