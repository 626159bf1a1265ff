"""The exceptions: a user's mistake, a run that stops by itself or by a signal, a sample that cannot be used."""

from __future__ import annotations

import errno
import os
from enum import StrEnum

_LONGEST_SHOWN = 60


def shown(value: object) -> str:
    """Return a value of any origin as a message shows it, cut if it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


_ADVICE = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some space, or write to another disk",
    errno.EACCES: "use a place that you may read and write",
    errno.EPERM: "use a place that you may read and write",
    errno.EROFS: "use a folder that can be written to",
    errno.EEXIST: "expected a folder; use another place",
    errno.ENOTDIR: "what it lies in is not a folder; use another place",
    errno.EISDIR: "expected a file; use another place",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ELOOP: "remove the links that lead in a circle",
}


def explain(error: OSError) -> str:
    """Return the message for a file that the system does not let a command read or write."""
    place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    advice = _ADVICE.get(error.errno or 0)
    return f"{place}{error.strerror or error}" + (f"\nNext: {advice}" if advice else "")


class UserError(Exception):
    """A mistake that the user can correct: printed without a traceback, exit status 2."""


class RunStopped(Exception):
    """A failed check that ends a run: printed without a traceback, exit status 1."""


class Interrupted(Exception):
    """A clean stop of a run after a signal; the same command again continues it."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class Cause(StrEnum):
    """The reason why a sample or an archive member was left out; these names appear in counts, logs and reports."""

    MISSING = "missing"  # listed in the manifest, but not in the archive
    SHARD_TRUNCATED = "shard_truncated"
    SHARD_UNREADABLE = "shard_unreadable"
    UNSAFE_NAME = "unsafe_name"
    DUPLICATE_KEY = "duplicate_key"
    PICKLE_MEMBER = "pickle_member"
    EMPTY = "empty"
    TOO_MANY_BYTES = "too_many_bytes"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_MANY_FRAMES = "too_many_frames"
    TOO_LONG = "too_long"  # the time stamps span hours
    TIMEOUT = "timeout"
    NO_VIDEO = "no_video"
    UNREADABLE_VIDEO = "unreadable_video"  # the container cannot be parsed
    TRUNCATED_VIDEO = "truncated_video"  # the container declares frames that are not there
    CODEC = "codec"  # the decoder refused the data
    AUDIO = "audio"
    BAD_JSON = "bad_json"
    BAD_TEXT = "bad_text"
    BAD_LABEL = "bad_label"  # outside the classes, or another number of labels than the objective takes


class SampleError(Exception):
    """A sample that cannot be used; it is counted under `cause`, and `detail` explains the error to the user."""

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(cause, detail)  # both arguments, so that the error can be pickled between processes
        self.cause = cause
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.cause}: {self.detail}"
