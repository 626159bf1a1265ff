"""A video on its way in: written to a file without a name as it comes, and refused as soon as it is too large.

Who waits for the models: one piece of work after another on a thread of its own, each answer to who asked.

What the page cannot do, and why: an error for people and programs alike, as JSON with a hint.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TypeVar

from starlette.requests import Request

from trichord.core.errors import Cause, SampleError, UserError
from trichord.shards.record import RawSample


async def receive(request: Request, most_bytes: int) -> IO[bytes]:
    """Take a request's body; the file is gone when it is closed, or when this process ends, however that comes."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most_bytes:
        raise _too_large(most_bytes)
    file = tempfile.TemporaryFile(prefix="trichord-")  # noqa: SIM115  (closed by whoever reads it)
    try:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > most_bytes:
                raise _too_large(most_bytes)
            file.write(chunk)
    except BaseException:
        file.close()
        raise
    if size == 0:
        file.close()
        raise Refused(400, "no video came", "Send its bytes as the body, or name a sample: /api/look?sample=0")
    return file


def sample_of(file: IO[bytes], name: str) -> RawSample:
    """Read what came as a sample, and let the file go; its own bytes say what kind of video it is."""
    with file:
        file.seek(0)
        return RawSample(name, "upload", {"mp4": file.read()})


def _too_large(most_bytes: int) -> Refused:
    limit = f"{most_bytes / 1e6:g} MB"
    return Refused(413, f"the video is larger than {limit}", "Send a shorter or smaller one, or raise --max-megabytes")


T = TypeVar("T")


class LineIsFull(Exception):
    """More would wait than anybody has patience for."""


class Line:
    """Used from one event loop; only the work itself runs elsewhere."""

    def __init__(self, name: str, longest: int) -> None:
        self.longest = longest
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._tickets: list[str] = []

    def __len__(self) -> int:
        return len(self._tickets)

    async def do(self, work: Callable[[], T], ticket: str = "") -> T:
        """Wait for one's turn and for the work; raise LineIsFull at once where too many wait."""
        if len(self._tickets) >= self.longest:
            raise LineIsFull
        self._tickets.append(ticket)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._tickets.remove(ticket)

    def ahead_of(self, ticket: str) -> int | None:
        """Count who comes before, the one at work among them; None for who does not wait."""
        return self._tickets.index(ticket) if ticket and ticket in self._tickets else None

    def close(self) -> None:
        """Take no more work, and leave what waits undone."""
        self._thread.shutdown(wait=False, cancel_futures=True)


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
