"""Find the descendants of a process and wait for them, as the accounting of a cluster does."""

from __future__ import annotations

import time
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """Return all live descendants of a process."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            parents[int(path.parent.name)] = int(parent)
    found: list[int] = []
    layer = [pid]
    while layer:
        layer = [child for child, parent in parents.items() if parent in layer]
        found += layer
    return sorted(found)


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def seconds_until_gone(pids: list[int], at_most_s: float) -> float:
    """Wait until none of the processes is alive; return the seconds that it took."""
    begin = time.monotonic()
    while any(map(is_alive, pids)):
        assert time.monotonic() - begin < at_most_s, f"{[pid for pid in pids if is_alive(pid)]} still live"
        time.sleep(0.02)
    return time.monotonic() - begin
