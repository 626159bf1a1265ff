"""What the page cannot do, and why: an error for people and programs alike, as JSON with a hint."""

from __future__ import annotations

import re

from trichord.core.errors import Cause, SampleError, UserError

_OF_THE_LIBRARY = re.compile(r"\[Errno \d+\] |: '<none>'$")
_TOO_MUCH = {Cause.TOO_LONG, Cause.TOO_MANY_BYTES, Cause.TOO_MANY_PIXELS, Cause.TOO_MANY_FRAMES}


class Refused(Exception):
    """A request that gets no answer."""

    def __init__(self, status: int, error: str, hint: str) -> None:
        super().__init__(error)
        self.status, self.error, self.hint = status, error, hint


def of_sample(error: SampleError) -> Refused:
    """Say why a video cannot be used."""
    if error.cause is Cause.TOO_LONG:
        return Refused(413, f"the video is too long: {error.detail}", "Send a shorter one, or raise --max-seconds")
    if error.cause in _TOO_MUCH:
        return Refused(413, f"the video is too large: {error.detail}", "Send a smaller one")
    if error.cause is Cause.TIMEOUT:
        return Refused(422, f"the video takes too long to decode: {error.detail}", "Send a shorter or smaller one")
    detail = _OF_THE_LIBRARY.sub("", error.detail)
    return Refused(422, f"this cannot be read as a video: {detail}", "Send an mp4 or webm file that plays elsewhere")


def of_mistake(error: UserError) -> Refused:
    """Pass on what a person can mend; what is behind `Next:` is the hint."""
    told, _, hint = str(error).partition("Next: ")
    return Refused(400, told.strip(), hint.strip() or "See GET /api/about for what this page can do")
