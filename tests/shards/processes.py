"""Tell which processes descend from one, and wait for them, as a cluster's own accounting does."""

from __future__ import annotations

import time
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """List all that live and descend from a process."""
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
    """Tell whether a process is there and no mere entry that waits to be read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def seconds_until_gone(pids: list[int], at_most_s: float) -> float:
    """Wait until none of them is alive."""
    begin = time.monotonic()
    while any(map(is_alive, pids)):
        assert time.monotonic() - begin < at_most_s, f"{[pid for pid in pids if is_alive(pid)]} still live"
        time.sleep(0.02)
    return time.monotonic() - begin
