"""The kinds of failure: a user's mistake, a run that stops itself or is told to, a sample that cannot be used."""

from __future__ import annotations

from enum import StrEnum


class UserError(Exception):
    """A mistake a person can mend: printed without a traceback, exit status 2."""


class RunStopped(Exception):
    """A run found itself wanting: printed without a traceback, exit status 1."""


class Interrupted(Exception):
    """A signal asked a run to stop, and it did so in good order: typing the same command again continues it."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class Cause(StrEnum):
    """Why a sample or an archive member was left out; these names appear in counts, logs and reports."""

    MISSING = "missing"  # the manifest promises it, the archive does not hold it
    SHARD_TRUNCATED = "shard_truncated"
    SHARD_UNREADABLE = "shard_unreadable"
    UNSAFE_NAME = "unsafe_name"
    DUPLICATE_KEY = "duplicate_key"
    PICKLE_MEMBER = "pickle_member"
    EMPTY = "empty"
    TOO_MANY_BYTES = "too_many_bytes"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_MANY_FRAMES = "too_many_frames"
    TOO_LONG = "too_long"  # the time stamps claim hours
    TIMEOUT = "timeout"
    NO_VIDEO = "no_video"
    UNREADABLE_VIDEO = "unreadable_video"  # the container cannot be parsed
    TRUNCATED_VIDEO = "truncated_video"  # the container promises frames that are not there
    CODEC = "codec"  # the decoder refused the data
    AUDIO = "audio"
    BAD_JSON = "bad_json"
    BAD_TEXT = "bad_text"


class SampleError(Exception):
    """One sample cannot be used; `cause` is what it is counted under, `detail` is for the person who looks."""

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(cause, detail)  # both arguments, so that the error survives a trip between processes
        self.cause = cause
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.cause}: {self.detail}"
