"""Atomic file writes: files are written under a temporary name, synced, and renamed.

Temporary names are unique to a machine, a process and a call, because many nodes may write into one folder over NFS.
Those of a worker also contain the process id of its parent, which deletes unfinished files after it has ended its
workers. What a killed process leaves is deleted by the next one that writes to the folder: at once on the same machine,
after a day elsewhere.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import time
from collections.abc import Iterator
from multiprocessing import parent_process
from pathlib import Path
from typing import BinaryIO

from trichord.core.machine import is_dead, machine_digest

PARTIAL = ".partial"
_LONGEST_STEM = 40  # of a temporary name, which must not be too long where the final one is not

_WRITER = re.compile(rf"^\..*\.(?P<machine>[0-9a-f]{{12}})-\d+-(?P<pid>\d+)-\d+{re.escape(PARTIAL)}$")
_SILENT_S = 86_400.0

_calls = itertools.count()
_cleared = set[Path]()  # folders


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically."""
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file for writing and reading, which is renamed to `path` on success and deleted on an error.

    An error of the disk names `path`: most come without a name, or with the temporary one.
    """
    temporary = temporary_path(path)
    try:
        with temporary.open("w+b") as file:  # unlike tempfile, with the permissions of the umask
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):  # it may not exist, nor the folder that it would be in
            temporary.unlink()
    sync(path.parent)


def temporary_path(path: Path) -> Path:
    """Return the path of a hidden file beside `path`, unique to this call.

    The first call for a folder deletes there what killed processes left.
    """
    if path.parent not in _cleared:
        _cleared.add(path.parent)
        _clear_after_the_dead(path.parent)
    parent = parent_process()
    parent_pid = os.getpid() if parent is None else parent.pid
    stem = path.name[:_LONGEST_STEM]
    return path.with_name(f".{stem}.{machine_digest()}-{parent_pid}-{os.getpid()}-{next(_calls)}{PARTIAL}")


def _clear_after_the_dead(folder: Path) -> None:
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        writer = _WRITER.search(name)
        if writer is None:
            continue
        with contextlib.suppress(OSError):  # another process may delete it as well
            silent_s = time.time() - (folder / name).stat().st_mtime
            if is_dead(writer["machine"], int(writer["pid"])) or silent_s > _SILENT_S:
                (folder / name).unlink()


def clear_after_workers(folder: Path) -> None:
    """Delete the unfinished files that ended workers of this process left in a folder."""
    for path in folder.glob(f".*.{machine_digest()}-{os.getpid()}-*{PARTIAL}"):
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Sync a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
