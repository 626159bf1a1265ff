"""Which machine this is, and which of its processes live: for files that name the process which wrote them."""

from __future__ import annotations

import hashlib
import os
import socket
from functools import cache
from pathlib import Path


@cache
def boot_and_namespace() -> str:
    """Return the boot id and PID namespace of this process, because containers have their own process ids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return ""


@cache
def machine_digest() -> str:
    """Return a short name of this host, boot and PID namespace, among which process ids are unique."""
    return hashlib.sha256(f"{socket.gethostname()} {boot_and_namespace()}".encode()).hexdigest()[:12]


def start_of(pid: int) -> str:
    """Return a process's start time, or "" if it does not exist; process ids are reused."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def is_dead(machine: str, pid: int) -> bool:
    """Return whether a process certainly ended: it ran on this machine, by its digest, and no longer does."""
    return machine == machine_digest() and boot_and_namespace() != "" and not start_of(pid)
