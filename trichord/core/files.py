"""Files that are there whole or not at all: written under a temporary name, synced, and given their own by a rename.

Temporary names are unique to a host, a process and a call, for many nodes may write into one folder over NFS. Those of
a worker bear the number of the process that started it as well, which clears what is left when it ends its workers.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Iterator
from multiprocessing import parent_process
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial"

_calls = itertools.count()


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file at once."""
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write, and read, that bears its name when this ends well and is gone when it ends ill."""
    temporary = temporary_path(path)
    try:
        with temporary.open("w+b") as file:  # unlike tempfile's, with the rights that the umask leaves
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def temporary_path(path: Path) -> Path:
    """Name a hidden file beside a path, for this call alone to write."""
    parent = parent_process()
    starter = os.getpid() if parent is None else parent.pid
    return path.with_name(f".{path.name}.{socket.gethostname()}-{starter}-{os.getpid()}-{next(_calls)}{PARTIAL}")


def clear_after_workers(folder: Path) -> None:
    """Delete what workers of this process, now ended, left unfinished in a folder."""
    for path in folder.glob(f".*.{socket.gethostname()}-{os.getpid()}-*{PARTIAL}"):
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have the system write a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
